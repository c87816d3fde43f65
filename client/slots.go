package client

// slots gives ids to the calls of a stream. An id is not given again soon, so
// that an answer which comes twice meets no other call.
type slots struct {
	calls []*call
	turns []uint64 // how often each slot was used
	free  []int
}

const (
	slotBits = 16 // of an id; the rest counts turns
	maxSlots = 1 << slotBits
)

// put returns the id of c, which is never 0.
func (s *slots) put(c *call) uint64 {
	if len(s.free) == 0 {
		s.free = append(s.free, len(s.calls))
		s.calls = append(s.calls, nil)
		s.turns = append(s.turns, 0)
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.calls[i] = c
	s.turns[i]++
	return s.turns[i]<<slotBits | uint64(i)
}

// get returns the call with this id, or nil.
func (s *slots) get(id uint64) *call {
	i := id & (maxSlots - 1)
	if i >= uint64(len(s.calls)) || s.turns[i] != id>>slotBits {
		return nil
	}
	return s.calls[i]
}

// take is get, and frees the id.
func (s *slots) take(id uint64) *call {
	c := s.get(id)
	if c != nil {
		i := int(id & (maxSlots - 1))
		s.calls[i] = nil
		s.free = append(s.free, i)
	}
	return c
}

// all takes every call.
func (s *slots) all() []*call {
	var all []*call
	for _, c := range s.calls {
		if c != nil {
			all = append(all, c)
		}
	}
	*s = slots{}
	return all
}

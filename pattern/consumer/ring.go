package consumer

// A ring is a queue with two ends that grows as it must. The zero ring is
// empty.
type ring[T any] struct {
	slots []T
	first int
	count int
}

func (r *ring[T]) len() int { return r.count }

// at returns the i-th from the front.
func (r *ring[T]) at(i int) T { return r.slots[(r.first+i)&(len(r.slots)-1)] }

func (r *ring[T]) pushBack(v T) {
	r.grow()
	r.slots[(r.first+r.count)&(len(r.slots)-1)] = v
	r.count++
}

func (r *ring[T]) pushFront(v T) {
	r.grow()
	r.first = (r.first - 1) & (len(r.slots) - 1)
	r.slots[r.first] = v
	r.count++
}

func (r *ring[T]) popFront() T {
	var none T
	v := r.slots[r.first]
	r.slots[r.first] = none
	r.first = (r.first + 1) & (len(r.slots) - 1)
	r.count--
	return v
}

// grow makes room for one more. The number of slots is a power of two.
func (r *ring[T]) grow() {
	if r.count < len(r.slots) {
		return
	}
	slots := make([]T, max(8, 2*len(r.slots)))
	for i := range r.count {
		slots[i] = r.at(i)
	}
	r.slots, r.first = slots, 0
}

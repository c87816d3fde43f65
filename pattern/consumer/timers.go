package consumer

import "container/heap"

// timers are the entries that something happens to when they are due, the
// earliest first. It is used through container/heap.
type timers []*entry

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].due.Before(t[j].due) }

func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer, t[j].timer = i+1, j+1
}

// Push is for container/heap; set is for everybody else.
func (t *timers) Push(x any) {
	e := x.(*entry) //nolint:errcheck,forcetypeassert // nothing else is pushed
	*t = append(*t, e)
	e.timer = len(*t)
}

// Pop is for container/heap.
func (t *timers) Pop() any {
	last := len(*t) - 1
	e := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	e.timer = 0
	return e
}

// set puts the entry where its due time belongs.
func (t *timers) set(e *entry) {
	if e.timer > 0 {
		heap.Fix(t, e.timer-1)
		return
	}
	heap.Push(t, e)
}

func (t *timers) drop(e *entry) {
	if e.timer > 0 {
		heap.Remove(t, e.timer-1)
	}
}

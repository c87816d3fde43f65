package memory

import "container/heap"

// A deadline is when something expires, with the key under which it is found.
type deadline[K any] struct {
	key K
	at  int64 // unix nanoseconds; 0: never
	pos int   // in the queue, from 1; 0: not in it
}

func (d *deadline[K]) passed(now int64) bool { return d.at != 0 && d.at <= now }

// A queue holds deadlines, the earliest first.
type queue[K any] struct{ heap deadlines[K] }

// set moves d to another deadline, 0 taking it out of the queue.
func (q *queue[K]) set(d *deadline[K], at int64) {
	d.at = at
	switch {
	case at == 0 && d.pos > 0:
		heap.Remove(&q.heap, d.pos-1)
	case at != 0 && d.pos > 0:
		heap.Fix(&q.heap, d.pos-1)
	case at != 0:
		heap.Push(&q.heap, d)
	}
}

// pop takes out a deadline that has passed and returns its key.
func (q *queue[K]) pop(now int64) (key K, ok bool) {
	if len(q.heap) == 0 || !q.heap[0].passed(now) {
		return key, false
	}
	key = q.heap[0].key
	heap.Pop(&q.heap)
	return key, true
}

// deadlines implements heap.Interface.
type deadlines[K any] []*deadline[K]

func (h deadlines[K]) Len() int           { return len(h) }
func (h deadlines[K]) Less(i, j int) bool { return h[i].at < h[j].at }

func (h deadlines[K]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i+1, j+1
}

func (h *deadlines[K]) Push(x any) {
	d := x.(*deadline[K]) //nolint:errcheck,forcetypeassert // queue pushes nothing else
	*h = append(*h, d)
	d.pos = len(*h)
}

func (h *deadlines[K]) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	d.pos = 0
	return d
}

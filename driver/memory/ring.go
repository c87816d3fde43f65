package memory

// A ring holds values in order, to be added behind and taken from the front. It
// takes at most four times the room of what it holds.
type ring[T any] struct {
	buf  []T // its length is a power of two, or 0
	head int
	size int
}

const leastRing = 8

func (r *ring[T]) len() int { return r.size }

// at returns the value at a place, counted from the front.
func (r *ring[T]) at(i int) T { return r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring[T]) push(v T) {
	if r.size == len(r.buf) {
		r.resize(max(leastRing, 2*r.size))
	}
	r.buf[(r.head+r.size)&(len(r.buf)-1)] = v
	r.size++
}

func (r *ring[T]) pop() T {
	v := r.at(0)
	var none T
	r.buf[r.head] = none
	r.head = (r.head + 1) & (len(r.buf) - 1)
	r.size--
	if r.size < len(r.buf)/4 && len(r.buf) > leastRing {
		r.resize(len(r.buf) / 2)
	}
	return v
}

func (r *ring[T]) resize(n int) {
	buf := make([]T, n)
	for i := range r.size {
		buf[i] = r.at(i)
	}
	r.buf, r.head = buf, 0
}

package client

// A queue holds calls that wait to be sent, the longest waiting first. Its
// methods need mux.mu.
type queue struct {
	head, tail *call
	size       int
}

func (q *queue) push(c *call) {
	c.state = callQueued
	c.prev, c.next = q.tail, nil
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
	q.size++
}

// pushFront is for a call that has waited already.
func (q *queue) pushFront(c *call) {
	c.state = callQueued
	c.prev, c.next = nil, q.head
	if q.head == nil {
		q.tail = c
	} else {
		q.head.prev = c
	}
	q.head = c
	q.size++
}

func (q *queue) remove(c *call) {
	if c.prev == nil {
		q.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	q.size--
}

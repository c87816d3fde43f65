package main

import "crypto/sha256"

// seen tells keys that a scan has returned before: a backend without an order
// may return one twice. One that returned its first thousand in byte order has
// an order; then nothing is remembered any more.
type seen struct {
	last  string
	count int
	keys  map[[sha256.Size]byte]struct{} // nil: the scan is in order
}

const inOrder = 1000

// before reports whether key was there before.
func (s *seen) before(key string) bool {
	if s.count == 0 {
		s.keys = map[[sha256.Size]byte]struct{}{}
	}
	if s.keys == nil {
		return false
	}
	switch {
	case s.count < 0: // out of order
	case s.count > 0 && key <= s.last:
		s.count = -1
	case s.count == inOrder:
		s.keys = nil
		return false
	default:
		s.count++
		s.last = key
	}
	sum := sha256.Sum256([]byte(key))
	_, found := s.keys[sum]
	s.keys[sum] = struct{}{}
	return found
}

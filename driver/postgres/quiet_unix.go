//go:build unix

package postgres

import (
	"errors"
	"net"
	"syscall"
)

// quiet reports whether an idle connection is open with nothing to read, as it
// should be: a server that ended it has sent its reason or the end of the
// stream. It costs one system call, and spares a write that would go out on a
// dead connection an outcome that nobody knows.
func quiet(c net.Conn) bool {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	idle := false
	// Not raw.Read: pgx may have left a reader behind that waits for the next
	// answer, and it would make us wait for it.
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		idle = errors.Is(err, syscall.EAGAIN)
	})
	return err == nil && idle
}

//go:build !linux

package servers

import "syscall"

// attributes returns the attributes of a server's process. Without a
// parent-death signal it stays in our process group, so that a Ctrl-C at the
// terminal reaches it too.
func attributes(base *syscall.SysProcAttr) *syscall.SysProcAttr {
	if base == nil {
		return &syscall.SysProcAttr{}
	}
	return base
}

// stopped cannot be known here; the signal has been sent.
func stopped([]int) bool { return true }

package servers

import "syscall"

// attributes returns the attributes of a server's process: it is killed when
// the thread that started it ends, and a Ctrl-C at the terminal is not its own.
func attributes(base *syscall.SysProcAttr) *syscall.SysProcAttr {
	var a syscall.SysProcAttr
	if base != nil {
		a = *base
	}
	a.Pdeathsig = syscall.SIGKILL
	a.Setpgid = true
	return &a
}

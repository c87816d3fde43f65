package main

import "syscall"

// dieWithParent makes the kernel end the server if this process is killed.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

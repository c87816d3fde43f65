package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// cpuTime returns the CPU time that a process has used, all its threads
// together, to the nanosecond: the process' own CPU clock, as
// clock_getcpuclockid(3) makes its number.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2
	clock := ^pid<<3 | sched
	var ts syscall.Timespec
	_, _, no := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0) //nolint:gosec // the kernel writes it during the call
	if no != 0 {
		return 0, os.NewSyscallError("clock_gettime", no)
	}
	return time.Duration(ts.Nano()), nil
}

package main

import (
	"os"
	"syscall"
	"time"
	"unsafe"
)

// A pacer wakes at fixed intervals. The runtime's own timers are rounded up to
// a millisecond when the process is idle; this one comes like a packet from
// the network does, through the poller.
type pacer struct {
	file *os.File
	buf  [8]byte
}

func newPacer(every time.Duration) (*pacer, error) {
	const monotonic, nonblock, cloexec = 1, syscall.O_NONBLOCK, syscall.O_CLOEXEC
	fd, _, no := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, monotonic, nonblock|cloexec, 0)
	if no != 0 {
		return nil, os.NewSyscallError("timerfd_create", no)
	}
	spec := [2]syscall.Timespec{syscall.NsecToTimespec(int64(every)), syscall.NsecToTimespec(int64(every))}
	_, _, no = syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, fd, 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0) //nolint:gosec // the kernel reads it during the call
	f := os.NewFile(fd, "timer")
	if no != 0 {
		_ = f.Close()
		return nil, os.NewSyscallError("timerfd_settime", no)
	}
	return &pacer{file: f}, nil
}

// wait returns when an interval is over.
func (p *pacer) wait() error {
	_, err := p.file.Read(p.buf[:])
	return err
}

func (p *pacer) close() { _ = p.file.Close() }

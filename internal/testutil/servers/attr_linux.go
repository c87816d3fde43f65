package servers

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

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

// stopped reports whether every thread of the processes stands still.
func stopped(pids []int) bool {
	for _, pid := range pids {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is valid
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err != nil {
				continue // it has ended
			}
			// The state follows the name, which is in parentheses.
			if at := bytes.LastIndexByte(stat, ')'); at < 0 || len(stat) < at+3 || stat[at+2] != 'T' && stat[at+2] != 'Z' {
				return false
			}
		}
	}
	return true
}

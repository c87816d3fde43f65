package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// tuneRuntime trades memory for time, as a server wants it: fewer collections
// while there is room, ordinary ones when half of the memory is reached. GOGC
// and GOMEMLIMIT in the environment win.
func tuneRuntime() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if limit := memoryLimit(); os.Getenv("GOMEMLIMIT") == "" && limit > 0 {
		debug.SetMemoryLimit(limit / 2)
	}
}

// memoryLimit returns the bytes that this process may use, 0 if that is not known.
func memoryLimit() int64 {
	for _, path := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if raw, err := os.ReadFile(path); err == nil {
			const unlimited = 1 << 60
			if n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && n < unlimited {
				return n
			}
		}
	}
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), "MemTotal:")
	if f := strings.Fields(rest); len(f) > 0 {
		if kib, err := strconv.ParseInt(f[0], 10, 64); err == nil {
			return kib << 10
		}
	}
	return 0
}

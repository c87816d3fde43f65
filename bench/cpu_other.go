//go:build !linux

package main

import (
	"errors"
	"time"
)

// cpuTime is only known on Linux.
func cpuTime(int) (time.Duration, error) { return 0, errors.ErrUnsupported }

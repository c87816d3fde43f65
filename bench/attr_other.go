//go:build !linux

package main

import "syscall"

// dieWithParent is only known on Linux; elsewhere a killed run leaves its servers.
func dieWithParent(*syscall.SysProcAttr) {}

// Package version says which build a program is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker in a release build; see make build.
var version = ""

// Line returns what a program's version command prints.
func Line(program string) string {
	return fmt.Sprintf("%s %s (%s, %s/%s)", program, Text(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Text returns the version alone.
func Text() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

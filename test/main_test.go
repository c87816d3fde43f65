// Package test drives the real binaries from outside: scripts in script/, the
// commands of docs/tutorial.md, and a server that is killed while it is written
// to.
package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// bin is the folder of the binaries under test.
var bin string

func TestMain(m *testing.M) {
	if servers.ServeKafka() || beTaker() {
		return
	}
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, "building the binaries:", err)
		os.Exit(1) //nolint:forbidigo // there is no test yet that could fail
	}
	defer os.RemoveAll(bin)
	m.Run()
}

func build() (err error) {
	if bin, err = os.MkdirTemp("", "prism-bin-"); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", bin, "../cmd/prism", "../cmd/prismctl")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// tool fails the test if a program is missing; it is installed with apt-get
// where that may be done without asking.
func tool(t testing.TB, name, debianPackage string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	installPackage(t, debianPackage, name+" is not installed")
	if _, err := exec.LookPath(name); err != nil {
		t.Fatal(err)
	}
}

func installPackage(t testing.TB, debianPackage, why string) {
	t.Helper()
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		t.Fatalf("%s; install it: apt-get install %s", why, debianPackage)
	}
	for _, args := range [][]string{{"update", "-q"}, {"install", "-q", "-y", "--no-install-recommends", debianPackage}} {
		cmd := exec.Command(apt, append([]string{"-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s, and apt-get %s failed: %v\n%s", why, args[0], err, out)
		}
	}
}

// pinned returns the folder of a tool that the Makefile pins.
func pinned(t testing.TB, name string) string {
	t.Helper()
	dir, err := filepath.Abs("../.tools")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
		return dir
	}
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	module := regexp.MustCompile(`\S+/` + regexp.QuoteMeta(name) + `@\S+`).FindString(string(makefile))
	install := exec.Command("go", "install", module)
	install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("go install %s: %v\n%s; try: make test-tools", module, err, out)
	}
	return dir
}

// path is PATH with the given folders first.
func path(dirs ...string) string {
	return strings.Join(append(dirs, os.Getenv("PATH")), string(os.PathListSeparator))
}

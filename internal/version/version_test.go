package version

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// The linker says nothing about a variable that is not there.
func TestMakefileStamps(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	flag := regexp.MustCompile(`-X \S+=\$\(VERSION\)`).FindString(string(makefile))
	stamp := strings.Replace(flag, "$(VERSION)", "v1.2.3-stamped", 1)
	out, err := exec.CommandContext(t.Context(), "go", "run", "-ldflags", stamp, "../../cmd/prismctl", "version").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.HasPrefix(string(out), "prismctl v1.2.3-stamped (go") {
		t.Errorf("with %q in the Makefile, prismctl version prints %s", flag, out)
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	if got := Line("prism"); !regexp.MustCompile(`^prism \S+ \(go1\S+, \w+/\w+\)$`).MatchString(got) {
		t.Errorf("got %q", got)
	}
}

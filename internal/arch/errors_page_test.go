package arch

import (
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/prismgw/prism/errs"
)

// Every error links to its section of the page, so the page has to be complete
// and to say what the code says.
func TestErrorsPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		if _, twice := sections[name]; twice {
			t.Errorf("%s has two sections", name)
		}
		sections[name] = body
	}
	for _, r := range errs.All() {
		checkSection(t, r, sections[r.String()])
		delete(sections, r.String())
	}
	for name := range sections {
		t.Errorf("%s has a section and is no reason", name)
	}
}

var (
	factsLine = regexp.MustCompile("^\ngRPC `([A-Z_]+)` · HTTP ([0-9]{3})(?: \\([^)]+\\))? · retry: ([a-z ]+?)(?: \\(([0-9]+ m?s)\\))?\n\n[^*\n]")
	retries   = map[string]errs.Retry{"never": errs.RetryNever, "after delay": errs.RetryAfterDelay, "if safe": errs.RetryIfSafe}
)

func checkSection(t *testing.T, r errs.Reason, body string) {
	t.Helper()
	facts := factsLine.FindStringSubmatch(body)
	if facts == nil {
		t.Errorf("%s: want a section that begins with a line such as %q and says what the reason means", r.String(), "gRPC `NOT_FOUND` · HTTP 404 · retry: never")
		return
	}
	var code codes.Code
	if err := json.Unmarshal([]byte(strconv.Quote(facts[1])), &code); err != nil || code != r.Code() {
		t.Errorf("%s: the page says %s, the code %s", r.String(), facts[1], r.Code())
	}
	if facts[2] != strconv.Itoa(r.HTTPStatus()) {
		t.Errorf("%s: the page says HTTP %s, the code %d", r.String(), facts[2], r.HTTPStatus())
	}
	if retry, known := retries[facts[3]]; !known || retry != r.Retry() {
		t.Errorf("%s: the page says retry %q, the code says otherwise", r.String(), facts[3])
	}
	// Of these two the proxy always knows the delay.
	want := errs.From(r).Delay()
	if r == errs.RateLimited || r == errs.CircuitOpen {
		want = 0
	}
	if delay, _ := time.ParseDuration(strings.ReplaceAll(facts[4], " ", "")); delay != want {
		t.Errorf("%s: the page says to wait %q, the code %v", r.String(), facts[4], want)
	}
	for _, part := range []string{"\n**What to do.** ", "\n**Example.** "} {
		if !strings.Contains(body, part) {
			t.Errorf("%s: the section lacks %q", r.String(), strings.TrimSpace(part))
		}
	}
}

package arch

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A rule says what a package's shipped files may import from this module. The
// first rule that matches a package holds; one without a rule may import
// nothing from here, so a new folder forces a decision. Test files are where
// parts meet: they may import anything but commands.
type rule struct {
	pkg     string   // as Match reads it
	may     []string // packages of this module, as Match reads them
	testing bool     // serves tests: what ships must not import it
	why     string
}

var rules = []rule{
	{pkg: "api/...", may: allow("api/..."), why: "the wire contract is generated and knows nobody"},
	{pkg: "errs", why: "everything fails with it, so it stands on nothing"},
	{pkg: "envelope", may: allow("api/...", "errs"), why: "producers, consumers and the proxy share it; users link it"},
	{pkg: "envelope/text", may: allow("api/...", "envelope", "errs"), why: "the proxy and prismctl write and read the same words"},

	{pkg: "driver", may: allow("errs"), why: "the contract of the primitives knows no technology and no pattern"},
	{pkg: "driver/wrap", may: allow("errs", "driver"), why: "a decorator works on every technology, so it knows none"},
	{pkg: "driver/drivertest", may: allow("errs", "driver", "internal/testutil/..."), testing: true, why: "one suite for every technology, so it knows none"},
	{pkg: "driver/groups", may: allow("errs", "driver"), why: "what technologies share knows none of them"},
	{pkg: "driver/*", may: allow("errs", "driver", "driver/wrap", "driver/groups"), why: "a technology knows its contract and no other technology"},

	{pkg: "pattern", may: allow("api/...", "envelope", "errs", "driver"), why: "a pattern is written against primitives"},
	{pkg: "pattern/patterntest", may: allow("api/...", "envelope", "errs", "driver", "driver/wrap", "pattern/...", "internal/testutil/..."), testing: true, why: "one suite for every pair of pattern and technology, so it knows the patterns and no technology"},
	{pkg: "pattern/publish", may: allow("api/...", "envelope", "errs"), why: "what patterns that take messages share, so it knows none of them"},
	{pkg: "pattern/trust", may: allow("api/...", "envelope", "errs", "pattern"), why: "what patterns of messages share, so it knows none of them, and not where keys come from"},
	{pkg: "pattern/topic", may: allow("api/...", "envelope", "errs", "driver", "pattern", "pattern/trust"), why: "what Producer and Consumer share, so it knows neither"},
	{pkg: "pattern/producer", may: allow("api/...", "envelope/...", "errs", "driver", "pattern", "pattern/publish", "pattern/rest", "pattern/topic", "pattern/trust"), why: "a pattern like those below, which shares its topics with Consumer"},
	{pkg: "pattern/consumer", may: allow("api/...", "envelope/...", "errs", "driver", "pattern", "pattern/rest", "pattern/topic", "pattern/trust"), why: "a pattern like those below, which shares its topics with Producer"},
	{pkg: "pattern/rest", may: allow("api/...", "errs", "pattern"), why: "what patterns share of HTTP, so it knows none of them"},
	{pkg: "pattern/*", may: allow("api/...", "envelope/...", "errs", "driver", "driver/wrap", "pattern", "pattern/publish", "pattern/rest", "pattern/trust"), why: "a pattern knows no technology and no other pattern"},

	{pkg: "secret", may: allow("errs", "driver"), why: "where credentials come from is no business of what uses them"},
	{pkg: "signing", may: allow("api/...", "envelope", "errs", "secret"), why: "the form and the life of keys, apart from who uses them"},
	{pkg: "namespace", may: allow("api/...", "errs", "driver", "pattern"), why: "a document names technologies and patterns; the tables that list them are handed in"},
	{pkg: "proxy", may: allow("api/...", "errs", "driver", "driver/wrap", "pattern", "namespace", "secret", "signing"), why: "it serves whatever the tables list, and knows none of it"},

	{pkg: "client", may: allow("api/...", "envelope", "errs"), why: "users link it: the wire contract, messages, the errors, and nothing of the server"},
	{pkg: "client/prismtest", may: allow("api/...", "errs", "client", "driver/...", "pattern/...", "namespace", "secret", "proxy"), testing: true, why: "a whole proxy inside a user's test"},

	{pkg: "cmd/prism", may: allow("api/...", "errs", "client", "driver/...", "pattern/...", "namespace", "secret", "proxy", "internal/version"), why: "the one place where the tables of implementations stand"},
	{pkg: "cmd/prismctl", may: allow("api/...", "envelope/...", "errs", "client", "internal/version"), why: "a client: no drivers, no server"},

	{pkg: "internal/arch", why: "it judges the others"},
	{pkg: "internal/budget", may: allow("internal/arch"), why: "it measures what arch has read"},
	{pkg: "internal/evidence", why: "it runs commands that a document lists"},
	{pkg: "internal/matrix", may: allow("driver", "driver/*"), why: "it writes down what technologies say of themselves and suites have found"},
	{pkg: "internal/testutil/...", may: allow("errs", "driver", "internal/testutil/..."), testing: true, why: "real servers and what else tests share; no suite, no implementation"},
	{pkg: "internal/version", why: "what the linker has stamped into a program"},
	{pkg: "bench", may: allow("api/...", "envelope", "errs", "client/...", "driver/...", "pattern/...", "namespace", "secret", "proxy", "internal/testutil/..."), testing: true, why: "it measures every layer by itself"},
	{pkg: "test/...", may: allow("api/...", "envelope", "errs", "client/...", "internal/testutil/..."), testing: true, why: "it drives the real binaries from outside, with what users link"},
}

// A dependency says which packages may use a module of others outside of test
// files. A module without a row may not be used at all.
type dependency struct {
	module string
	in     []string // as Match reads them; none: test files only
	why    string
}

var dependencies = []dependency{
	{"google.golang.org/grpc", allow("api/...", "errs", "pattern/...", "proxy", "client/...", "cmd/...", "bench"), "the wire; a driver speaks its backend's protocol instead"},
	{"google.golang.org/protobuf", allow("api/...", "envelope/text", "errs", "pattern/...", "namespace", "proxy", "client/...", "cmd/...", "bench"), "the wire and the documents; drivers store bytes"},
	{"google.golang.org/genproto/googleapis/rpc", allow("api/...", "errs", "pattern/...", "proxy", "client", "cmd/..."), "google.rpc.Status and its details"},
	{"github.com/planetscale/vtprotobuf", allow("api/..."), "the runtime of the generated marshalling"},
	{"golang.org/x/crypto", allow("envelope"), "ciphers of payloads that the standard library does not export"},

	{"github.com/redis/rueidis", allow("driver/redis", "bench"), "a vendor's SDK stays with its technology; bench measures it bare"},
	{"github.com/redis/go-redis/v9", allow("bench"), "the client people use today, as the peer to measure against"},
	{"github.com/jackc/pgx/v5", allow("driver/postgres", "internal/testutil/...", "bench"), "a vendor's SDK stays with its technology; tests make databases with it"},
	{"modernc.org/sqlite", allow("driver/sqlite", "bench"), "a vendor's SDK stays with its technology; bench measures it bare"},
	{"github.com/nats-io/nats.go", allow("driver/nats", "internal/testutil/...", "bench"), "a vendor's SDK stays with its technology; tests ask whether their server is ready, bench measures it bare"},
	{"github.com/nats-io/nats-server/v2", allow("internal/testutil/...", "cmd/prism", "bench"), "a real server for tests and bench, and the broker of prism dev"},
	{"github.com/twmb/franz-go/pkg/kfake", allow("internal/testutil/..."), "a broker for tests"},
	{"github.com/twmb/franz-go/pkg/kmsg", allow("driver/kafka"), "a vendor's SDK stays with its technology: its requests"},
	{"github.com/twmb/franz-go", allow("driver/kafka"), "a vendor's SDK stays with its technology"},
	{"github.com/aws/aws-sdk-go-v2", allow("driver/s3"), "a vendor's SDK stays with its technology"},
	{"github.com/aws/aws-sdk-go-v2/service/s3", allow("driver/s3"), "a vendor's SDK stays with its technology"},
	{"github.com/aws/smithy-go", allow("driver/s3"), "what that SDK's errors are made of"},
	{"github.com/sony/gobreaker/v2", allow("driver/wrap"), "the one circuit breaker"},
	{"golang.org/x/time", allow("driver/wrap", "proxy"), "the one rate limiter"},

	{"github.com/prometheus/client_golang", allow("driver/wrap", "proxy", "cmd/prism", "bench"), "metrics are made where operations are observed"},
	{"github.com/fsnotify/fsnotify", allow("namespace", "proxy", "cmd/prism"), "watching configuration files"},
	{"go.yaml.in/yaml/v3", allow("namespace", "cmd/prismctl"), "documents, and prismctl's own configuration"},
	{"go.opentelemetry.io/otel", allow("proxy", "cmd/prism"), "traces are made where requests are served"},
	{"go.opentelemetry.io/otel/trace", allow("proxy", "cmd/prism"), "traces are made where requests are served"},
	{"go.opentelemetry.io/otel/sdk", allow("cmd/prism"), "main decides where traces go"},
	{"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc", allow("cmd/prism"), "main decides where traces go"},
	{"github.com/spf13/pflag", allow("cmd/*"), "the flags behind cobra"},
	{"github.com/spf13/cobra", allow("cmd/*"), "command lines"},
	{"github.com/schollz/progressbar/v3", allow("cmd/prismctl"), "import and export of many keys"},

	{"github.com/anishathalye/porcupine", allow("driver/drivertest", "pattern/patterntest"), "checks histories for linearizability"},
	{"pgregory.net/rapid", allow("driver/drivertest", "pattern/patterntest"), "makes up and shrinks operations"},
	{"go.uber.org/goleak", allow("driver/drivertest", "pattern/patterntest", "internal/testutil/..."), "finds goroutines that stay behind"},
	{"github.com/rogpeppe/go-internal", allow("test/..."), "testscript"},
}

// maxChain is how many imports may follow each other inside the module.
const maxChain = 7

func allow(patterns ...string) []string { return patterns }

func TestImports(t *testing.T) {
	t.Parallel()
	for _, violation := range violations(load(t)) {
		t.Error(violation)
	}
}

func TestLongestChain(t *testing.T) {
	t.Parallel()
	chain := load(t).LongestChain()
	t.Logf("%d imports: %s", len(chain)-1, strings.Join(chain, " -> "))
	if len(chain)-1 > maxChain {
		t.Errorf("the longest chain of imports is over %d; a layer has grown that nobody asked for", maxChain)
	}
}

func TestEveryDependencyHasARow(t *testing.T) {
	t.Parallel()
	var listed []string
	for _, d := range dependencies {
		listed = append(listed, d.module)
	}
	slices.Sort(listed)
	for _, module := range missing(load(t).Requires, listed) {
		t.Errorf("%s is required by go.mod; say in rules_test.go which packages may use it", module)
	}
	for _, module := range missing(listed, load(t).Requires) {
		t.Errorf("%s has a row in rules_test.go and is not required by go.mod", module)
	}
}

func TestEveryDependencyIsExplained(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	var explained []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| .+\\. \\|$").FindAllStringSubmatch(string(text), -1) {
		explained = append(explained, row[1])
	}
	for _, module := range missing(load(t).Requires, explained) {
		t.Errorf("%s is required by go.mod; docs/dependencies.md does not say why", module)
	}
	for _, module := range missing(explained, load(t).Requires) {
		t.Errorf("%s has a line in docs/dependencies.md and is not required by go.mod", module)
	}
}

func load(t *testing.T) *Module {
	t.Helper()
	m, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// missing returns what is in want and not in have.
func missing(want, have []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(have, s) })
}

// violations returns what breaks the rules, one line for each import.
func violations(m *Module) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(m.Packages)) {
		r, known := ruleOf(name)
		if !known {
			found = append(found, name+" has no rule; say in internal/arch/rules_test.go what it may import, and why")
		}
		pkg := m.Packages[name]
		for _, imported := range pkg.Imports {
			if why := verdict(name, r, imported, m); why != "" {
				found = append(found, fmt.Sprintf("%s imports %s: %s", name, imported, why))
			}
		}
		for _, imported := range pkg.TestImports {
			if Match("cmd/...", imported) && !strings.HasPrefix(imported, name+"/") {
				found = append(found, fmt.Sprintf("%s imports %s in a test: nothing imports a command", name, imported))
			}
		}
	}
	return found
}

// verdict says why the shipped files of a package must not import another one;
// it is empty if they may.
func verdict(name string, r rule, imported string, m *Module) string {
	_, ours := m.Packages[imported]
	switch {
	case ours:
		return insideVerdict(r, imported)
	case imported == "testing" || strings.HasPrefix(imported, "testing/") || imported == "net/http/httptest":
		if !r.testing {
			return "only tests and what serves them do"
		}
		return ""
	case !strings.Contains(strings.Split(imported, "/")[0], "."):
		return "" // the standard library
	}
	return outsideVerdict(name, imported)
}

func insideVerdict(r rule, imported string) string {
	target, _ := ruleOf(imported)
	switch {
	case Match("cmd/...", imported):
		return "nothing imports a command"
	case target.testing && !r.testing:
		return "what ships uses nothing that serves tests"
	case matchAny(r.may, imported):
		return ""
	case r.pkg == "":
		return "a package without a rule imports nothing from this module"
	}
	return r.why
}

func outsideVerdict(name, imported string) string {
	for _, d := range dependencies {
		switch {
		case !Match(d.module+"/...", imported):
		case matchAny(d.in, name):
			return ""
		default:
			return d.why
		}
	}
	return "the module has no row among the dependencies"
}

func ruleOf(pkg string) (rule, bool) {
	for _, r := range rules {
		if Match(r.pkg, pkg) {
			return r, true
		}
	}
	return rule{}, false
}

func matchAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return Match(p, pkg) })
}

package namespace

import (
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
)

// The needs that a document can state.
const (
	durabilityStrong  = "strong"
	durabilityProcess = "process"
	durabilityNone    = "none"
	consistencyStrong = "strong"
)

// What the short forms stand for: "stores" for the first, "topics" for the next
// two and "queues" for the last, which have the names of their kinds.
const (
	kindKeyValue = "keyvalue"
	kindProducer = "producer"
	kindConsumer = "consumer"
	kindQueue    = "queue"
)

// reserved begins the names that are Prism's own.
const reserved = "__"

// Bounds of labels.
const (
	maxLabels     = 64
	maxLabelValue = 256 // bytes
)

var (
	nameForm  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	labelForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$`)
)

// validate tells every mistake that the documents by themselves show.
func validate(s *Set, r *report) {
	backends := make(map[string]*Origin)
	for _, b := range s.Backends {
		say := func(path, text string) { r.backend(b, path, "%s", text) }
		checkName(b.Spec.GetName(), "name", say)
		checkOnce(backends, b.Spec.GetName(), "Backend", &b.Origin, say)
		validateBackend(b, say)
	}
	namespaces := make(map[string]*Origin)
	for _, n := range s.Namespaces {
		say := func(path, text string) { r.namespace(n, path, "%s", text) }
		checkName(n.Spec.GetName(), "name", say)
		checkOnce(namespaces, n.Spec.GetName(), "Namespace", &n.Origin, say)
		validateNamespace(n.Spec, say)
	}
}

// sayer takes one mistake of a document.
type sayer func(path, text string)

func checkName(name, path string, say sayer) {
	switch {
	case name == "":
		say(path, "the name is missing; write one of a-z, 0-9 and -, at most 63 of them")
	case strings.HasPrefix(name, reserved):
		say(path, "names that begin with __ are Prism's own; choose another one")
	case !nameForm.MatchString(name):
		say(path, quote(name)+" is no name; write 1 to 63 of a-z, 0-9 and -, with no - at either end")
	}
}

func checkOnce(seen map[string]*Origin, name, kind string, o *Origin, say sayer) {
	if name == "" {
		return
	}
	if first, twice := seen[name]; twice {
		say("name", "there is another "+kind+" "+quote(name)+first.in()+"; rename one of them")
		return
	}
	seen[name] = o
}

// in returns where the document begins, for the middle of a message.
func (o *Origin) in() string {
	if o.File == "" {
		return ""
	}
	return " in " + o.File + ":" + strconv.Itoa(o.Line)
}

func validateBackend(b *Backend, say sayer) {
	if b.Spec.GetDriver() == "" {
		say("driver", "the driver is missing; write driver: and the name of a technology")
	}
	if holdsPassword(b.Spec.GetUrl()) {
		say("url", "a url may not hold a password; take it out and write credentials: env://NAME or file:///path")
	}
	if t := b.Spec.GetTls(); t != nil {
		validateTLS(t, say)
	}
}

func validateTLS(t *namespacev1.TLS, say sayer) {
	if (t.GetCert() == "") != (t.GetKey() == "") {
		say("tls", "cert and key belong together; write both or neither")
	}
	for _, f := range []struct{ name, value string }{{"ca", t.GetCa()}, {"cert", t.GetCert()}, {"key", t.GetKey()}} {
		if _, err := filePath(f.value, ""); err != "" {
			say("tls."+f.name, err)
		}
	}
}

// filePath returns the path that a document means by ref: a path, or a url
// such as file:///etc/ca.pem. Relative ones start in dir. problem says what
// is wrong with ref.
func filePath(ref, dir string) (path, problem string) {
	scheme, rest, isURL := strings.Cut(ref, "://")
	if !isURL {
		if ref == "" || filepath.IsAbs(ref) {
			return ref, ""
		}
		return filepath.Join(dir, ref), ""
	}
	if scheme != "file" || !strings.HasPrefix(rest, "/") {
		return "", "this names no file; write a path, or file:///path"
	}
	path, err := url.PathUnescape(rest)
	if err != nil {
		return "", "a % in a file url is followed by two hexadecimal digits; write %25 for % itself"
	}
	return path, ""
}

// passwordKeys are the parameters in which urls of databases carry secrets.
var passwordKeys = []string{"password", "passwd", "pwd", "pass", "sslpassword", "auth", "secret", "token"}

var passwordWord = regexp.MustCompile(`(?i)(^|[\s;])(password|passwd|pwd|sslpassword)\s*=`)

// holdsPassword reports whether a url has a password where urls have one,
// also if it is not written as a url has to be.
func holdsPassword(raw string) bool {
	rest, query, _ := strings.Cut(raw, "?")
	if _, after, ok := strings.Cut(rest, "://"); ok {
		rest = after
	}
	return passwordInAuthority(rest) || passwordInQuery(query) || passwordWord.MatchString(raw)
}

func passwordInAuthority(rest string) bool {
	at := strings.LastIndexByte(rest, '@')
	if at < 0 || strings.HasPrefix(rest, "/") {
		return false
	}
	_, password, colon := strings.Cut(rest[:at], ":")
	if !colon || password == "" {
		return false
	}
	port, _, path := strings.Cut(password, "/")
	_, err := strconv.Atoi(port)
	return !path || err != nil // host:6379/a@b has a port, not a password
}

func passwordInQuery(query string) bool {
	for _, p := range strings.FieldsFunc(query, func(c rune) bool { return c == '&' || c == ';' || c == '#' }) {
		key, value, _ := strings.Cut(p, "=")
		if k, err := url.QueryUnescape(key); err == nil {
			key = k
		}
		if value != "" && slices.Contains(passwordKeys, strings.ToLower(key)) {
			return true
		}
	}
	return false
}

func validateNamespace(n *namespacev1.Namespace, say sayer) {
	validateLabels(n.GetLabels(), say)
	validatePatterns(n, say)
	validateTopics(n, say)
	if n.GetSigning() != nil && n.GetSigning().GetKeys() == "" {
		say("signing.keys", "is missing; write where the ring of keys is: env://NAME or file:///path")
	}
	checkChoice("needs.durability", n.GetNeeds().GetDurability(), say, durabilityStrong, durabilityProcess, durabilityNone)
	checkChoice("needs.consistency", n.GetNeeds().GetConsistency(), say, consistencyStrong)
	checkChoice("auth.anonymous", n.GetAuth().GetAnonymous(), say, AnonymousDeny, AnonymousReadOnly, AnonymousReadWrite)
	checkLimit("limits.read_rps", n.GetLimits().GetReadRps(), say)
	checkLimit("limits.write_rps", n.GetLimits().GetWriteRps(), say)
	checkLimit("limits.concurrency", n.GetLimits().GetConcurrency(), say)
}

func validateLabels(labels map[string]string, say sayer) {
	if len(labels) > maxLabels {
		say("labels", "there are "+strconv.Itoa(len(labels))+" labels; at most "+strconv.Itoa(maxLabels)+" are taken")
	}
	for key, value := range labels {
		path := join("labels", key)
		if !labelForm.MatchString(key) {
			say(path, "a label is 1 to 63 of letters, digits and . _ / -, with a letter or digit at either end")
		}
		if len(value) > maxLabelValue {
			say(path, "a label's value has at most "+strconv.Itoa(maxLabelValue)+" bytes")
		}
	}
}

func validateTopics(n *namespacev1.Namespace, say sayer) {
	if len(n.GetConsumers()) > 0 && len(n.GetTopics()) == 0 {
		say("consumers", "there is no topic to consume; write topics: [{name: NAME}]")
	}
}

func validatePatterns(n *namespacev1.Namespace, say sayer) {
	seen := make(map[string]string)
	for _, p := range patternsOf(n) {
		at := p.path
		if !p.short {
			at += ".name"
		}
		checkName(p.GetName(), at, say)
		if first, twice := seen[p.GetName()]; twice && p.GetName() != "" {
			say(at, quote(p.GetName())+" is already the name of "+first+"; rename one of them")
		}
		seen[p.GetName()] = p.path
		if p.GetKind() == "" {
			say(p.path+".kind", "the kind is missing; write kind: keyvalue")
		}
	}
}

// A pattern is a Pattern in the long form, with the path of what was written.
type pattern struct {
	*namespacev1.Pattern
	path  string
	short bool
}

// patternsOf returns all patterns of a namespace, those of stores first, then
// those of topics and queues.
func patternsOf(n *namespacev1.Namespace) []pattern {
	all := make([]pattern, 0, len(n.GetStores())+len(n.GetPatterns()))
	for i, name := range n.GetStores() {
		long := &namespacev1.Pattern{Name: name, Kind: kindKeyValue}
		all = append(all, pattern{long, "stores[" + strconv.Itoa(i) + "]", true})
	}
	if len(n.GetTopics()) > 0 {
		topics, consumers := topicSettings(n)
		all = append(all,
			pattern{&namespacev1.Pattern{Name: kindProducer, Kind: kindProducer, Settings: topics}, "topics", true},
			pattern{&namespacev1.Pattern{Name: kindConsumer, Kind: kindConsumer, Settings: consumers}, "topics", true})
	}
	if len(n.GetQueues()) > 0 {
		all = append(all, pattern{&namespacev1.Pattern{Name: kindQueue, Kind: kindQueue, Settings: queueSettings(n)}, "queues", true})
	}
	for i, p := range n.GetPatterns() {
		all = append(all, pattern{p, "patterns[" + strconv.Itoa(i) + "]", false})
	}
	return all
}

func checkChoice(path, value string, say sayer, choices ...string) {
	if value != "" && !slices.Contains(choices, value) {
		say(path, "unknown value "+quote(value)+advise(value, choices))
	}
}

func checkLimit(path string, limit int32, say sayer) {
	if limit < 0 {
		say(path, "a limit cannot be negative; write 0 or nothing for none")
	}
}

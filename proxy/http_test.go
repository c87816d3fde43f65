package proxy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/proxy"
)

// TestHTTP runs the conversations of testdata/http, each file on a proxy of
// its own. Requests go out byte for byte as they stand there: no client
// library tidies them up. A conversation is
//
//	# what it shows
//	PUT /v1/namespaces/open/keyvalue/a     the request line, without HTTP/1.1
//	If-Match: "{v}"                        headers; {v} is a variable
//	"body\x00"                             a body, as Go quotes it; a number in
//	                                       front repeats it, chunked: sends it so
//	=> 200                                 the status
//	Etag: "{v}"                            a header: a new variable takes what is
//	                                       there, * is anything, - is absent
//	"body"                                 the body, or
//	{"value": 1}                           an object that has at least these, or
//	reason INVALID_FIELD ttl               a problem, and the field that it names
func TestHTTP(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/http/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no conversations", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			s := start(t, func(o *proxy.Options) {
				o.HTTPHosts = []string{"gateway.example"}
				o.CORSOrigins = []string{"https://app.example"}
			}, documents, news, post, `{kind: Namespace, name: hidden, stores: [data], needs: {durability: none}, auth: {anonymous: read_only}}`)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			vars := map[string]string{"address": s.HTTP}
			_, vars["port"], _ = net.SplitHostPort(s.HTTP)
			for line, one := range conversations(string(text)) {
				one.at = fmt.Sprintf("%s:%d", file, line)
				one.run(t, s.HTTP, vars)
			}
		})
	}
}

// exchange is one request with what is expected of its answer.
type exchange struct {
	at            string
	request, want []string
}

// conversations splits a file into its exchanges, by line number.
func conversations(text string) func(yield func(int, exchange) bool) {
	return func(yield func(int, exchange) bool) {
		var x exchange
		begun, answered := 0, false
		for i, line := range strings.Split(text+"\n", "\n") {
			switch line = strings.TrimSpace(line); {
			case line == "":
				if begun > 0 && !yield(begun, x) {
					return
				}
				x, begun, answered = exchange{}, 0, false
				continue
			case strings.HasPrefix(line, "#"):
				continue
			case strings.HasPrefix(line, "=> "):
				answered, line = true, line[3:]
			}
			if begun == 0 {
				begun = i + 1
			}
			if answered {
				x.want = append(x.want, line)
			} else {
				x.request = append(x.request, line)
			}
		}
	}
}

var (
	headerLine = regexp.MustCompile(`^([A-Za-z-]+): (.*)$`)
	bodyLine   = regexp.MustCompile(`^(chunked: )?([0-9]+ )?(".*")$`)
	variable   = regexp.MustCompile(`\{(\w+)\}`)
)

// run sends the request and compares the answer.
func (x *exchange) run(t *testing.T, address string, vars map[string]string) {
	t.Helper()
	resp, body := roundTrip(t, address, x.bytes(t, vars), strings.HasPrefix(x.request[0], "HEAD "))
	if got := strconv.Itoa(resp.StatusCode); got != x.want[0] {
		t.Errorf("%s: %s: status %s, want %s\n%s", x.at, x.request[0], got, x.want[0], body)
		return
	}
	if resp.StatusCode == http.StatusBadRequest && resp.Header.Get("Request-Id") == "" {
		return // net/http itself refused what is no HTTP
	}
	x.always(t, resp, body)
	for _, want := range x.want[1:] {
		x.compare(t, fill(want, vars), resp, body, vars)
	}
}

// fill replaces the variables that are known.
func fill(text string, vars map[string]string) string {
	return variable.ReplaceAllStringFunc(text, func(v string) string {
		if known, ok := vars[v[1:len(v)-1]]; ok {
			return known
		}
		return v
	})
}

// bytes returns the request as it goes over the wire.
func (x *exchange) bytes(t *testing.T, vars map[string]string) []byte {
	t.Helper()
	var head, body bytes.Buffer
	host, framing := "Host: "+vars["address"]+"\r\n", ""
	for _, line := range x.request[1:] {
		if m := bodyLine.FindStringSubmatch(line); m != nil {
			text, err := strconv.Unquote(m[3])
			if err != nil {
				t.Fatalf("%s: %s: %v", x.at, line, err)
			}
			n, _ := strconv.Atoi(strings.TrimSpace(m[2]))
			content := strings.Repeat(text, max(n, 1))
			framing = fmt.Sprintf("Content-Length: %d\r\n", len(content))
			if m[1] != "" {
				framing = "Transfer-Encoding: chunked\r\n"
				content = chunked(content)
			}
			body.WriteString(content)
			continue
		}
		line = fill(line, vars)
		if strings.HasPrefix(line, "Host:") {
			host = ""
		}
		if raw, ok := strings.CutPrefix(line, "raw "); ok { // a header with bytes that a text file cannot hold
			line, _ = strconv.Unquote(raw)
		}
		head.WriteString(line + "\r\n")
	}
	return append([]byte(fill(x.request[0], vars)+" HTTP/1.1\r\n"+host+"Connection: close\r\n"+head.String()+framing+"\r\n"), body.Bytes()...)
}

// chunked returns content in chunks of up to 64 KiB.
func chunked(content string) string {
	var b strings.Builder
	for len(content) > 0 {
		n := min(len(content), 64<<10)
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, content[:n])
		content = content[n:]
	}
	return b.String() + "0\r\n\r\n"
}

// roundTrip sends bytes and reads one answer.
func roundTrip(t *testing.T, address string, request []byte, head bool) (*http.Response, []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	go conn.Write(request) // the server may answer without reading it all
	r := &http.Request{Method: http.MethodGet}
	if head {
		r.Method = http.MethodHead
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		t.Fatalf("%.100q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%.100q: %v", request, err)
	}
	return resp, body
}

// always checks what holds for every answer.
func (x *exchange) always(t *testing.T, resp *http.Response, body []byte) {
	t.Helper()
	h := resp.Header
	if h.Get("Request-Id") == "" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s: headers %v", x.at, h)
	}
	for _, step := range []string{"auth;dur=", "policy;dur=", "wait;dur=", "backend;dur="} {
		if !strings.Contains(h.Get("Server-Timing"), step) {
			t.Errorf("%s: Server-Timing is %q", x.at, h.Get("Server-Timing"))
		}
	}
	if resp.StatusCode < 400 {
		if resp.StatusCode >= 300 && resp.StatusCode != http.StatusNotModified {
			t.Errorf("%s: redirected to %q", x.at, h.Get("Location"))
		}
		return
	}
	if resp.StatusCode == http.StatusMethodNotAllowed && h.Get("Allow") == "" {
		t.Errorf("%s: no Allow", x.at)
	}
	if h.Get("Content-Type") != "application/problem+json" || h.Get("Etag") != "" {
		t.Errorf("%s: an error with headers %v", x.at, h)
	}
	if strings.HasPrefix(x.request[0], "HEAD ") {
		return
	}
	var p struct {
		Type, Title, Detail, Reason string
		Status                      int
		RequestID                   string `json:"request_id"`
	}
	if err := json.Unmarshal(body, &p); err != nil {
		t.Errorf("%s: %v: %s", x.at, err, body)
		return
	}
	if p.Status != resp.StatusCode || p.RequestID != h.Get("Request-Id") || p.Title == "" || p.Detail == "" || len(p.Detail) > 1000 ||
		!strings.HasSuffix(p.Type, "#"+strings.ToLower(p.Reason)) || !known(p.Reason) {
		t.Errorf("%s: %s", x.at, body)
	}
}

func known(reason string) bool {
	for _, r := range errs.All() {
		if r.String() == reason {
			return true
		}
	}
	return false
}

// compare checks one expectation.
func (x *exchange) compare(t *testing.T, want string, resp *http.Response, body []byte, vars map[string]string) {
	t.Helper()
	switch {
	case strings.HasPrefix(want, "reason "):
		x.compareProblem(t, strings.Fields(want)[1:], body)
	case strings.HasPrefix(want, "{"):
		var wanted, got map[string]any
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatalf("%s: %v", x.at, err)
		}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Errorf("%s: %v: %s", x.at, err, body)
		}
		for k, v := range wanted {
			if fmt.Sprint(got[k]) != fmt.Sprint(v) {
				t.Errorf("%s: %s is %v, want %v", x.at, k, got[k], v)
			}
		}
	case bodyLine.MatchString(want):
		m := bodyLine.FindStringSubmatch(want)
		text, err := strconv.Unquote(m[3])
		n, _ := strconv.Atoi(strings.TrimSpace(m[2]))
		if text = strings.Repeat(text, max(n, 1)); err != nil || string(body) != text {
			t.Errorf("%s: body %.200q, want %.200q %v", x.at, body, text, err)
		}
	default:
		m := headerLine.FindStringSubmatch(want)
		if m == nil {
			t.Fatalf("%s: cannot read %q", x.at, want)
		}
		x.compareHeader(t, m[2], resp.Header.Values(m[1]), m[1], vars)
	}
}

func (x *exchange) compareHeader(t *testing.T, want string, values []string, name string, vars map[string]string) {
	t.Helper()
	got := strings.Join(values, ", ")
	if v := variable.FindStringSubmatch(want); v != nil && got != "" { // a new one
		prefix, suffix, _ := strings.Cut(want, v[0])
		vars[v[1]] = strings.TrimSuffix(strings.TrimPrefix(got, prefix), suffix)
		want = fill(want, vars)
	}
	if want == "*" && got != "" || want == "-" && len(values) == 0 || want == got {
		return
	}
	t.Errorf("%s: %s is %q, want %q", x.at, name, got, want)
}

// compareProblem checks the reason of an error and the fields that it names.
func (x *exchange) compareProblem(t *testing.T, want []string, body []byte) {
	t.Helper()
	var p struct {
		Reason string
		Errors []struct{ Field, Detail string }
	}
	if err := json.Unmarshal(body, &p); err != nil {
		t.Errorf("%s: %v: %s", x.at, err, body)
		return
	}
	got := []string{p.Reason}
	for _, f := range p.Errors {
		if got = append(got, f.Field); f.Detail == "" {
			t.Errorf("%s: field %s without a word", x.at, f.Field)
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s: problem %q, want %q\n%s", x.at, got, want, body)
	}
}

package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	keyvaluev1 "github.com/prismgw/prism/api/prism/keyvalue/v1"
	"github.com/prismgw/prism/errs"
)

// Where a namespace denies strangers, nobody without an identity learns what
// there is: neither its name nor its patterns, over no door, with or without a
// credential that nobody can check.
func TestNothingIsRevealed(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents, `{kind: Namespace, name: secret, stores: [one, other], needs: {durability: none}, auth: {anonymous: deny}}`)
	c := s.dial(t)
	first := map[string]string{} // by credential
	for _, namespace := range []string{"secret", "nope"} {
		for _, pattern := range []string{"", "one", "nope"} {
			for _, credential := range []string{"", "Bearer x"} {
				what := fmt.Sprintf("%s/%s with %q", namespace, pattern, credential)
				more := []string{"request-id", "r"}
				if pattern != "" {
					more = append(more, "x-prism-pattern", pattern)
				}
				if credential != "" {
					more = append(more, "authorization", credential)
				}
				_, err := c.Retrieve(in(t, namespace, more...), &keyvaluev1.RetrieveRequest{Key: "a"})
				told(t, what, err, errs.Unauthenticated)
				_, err = c.Store(in(t, namespace, more...), &keyvaluev1.StoreRequest{Key: "a"})
				told(t, what+", a write", err, errs.Unauthenticated)
				answers := err.Error() + "\n" + overHTTP(t, s, namespace, pattern, credential)
				if first[credential] == "" {
					first[credential] = answers
				} else if answers != first[credential] {
					t.Errorf("%s can be told apart:\n%s\nfrom\n%s", what, answers, first[credential])
				}
			}
		}
	}
}

// overHTTP reads a key and returns the status and the body.
func overHTTP(t *testing.T, s *served, namespace, pattern, credential string) string {
	t.Helper()
	path := "/keyvalue/a"
	if pattern != "" {
		path = "/patterns/" + pattern + path
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.HTTP+"/v1/namespaces/"+namespace+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Request-Id", "r")
	if credential != "" {
		r.Header.Set("Authorization", credential)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Status + "\n" + string(body)
}

// Where nothing is hidden, what is wrong with a selector is said.
func TestSelectorsAreExplained(t *testing.T) {
	t.Parallel()
	s := start(t, nil, documents)
	c := s.dial(t)
	for _, x := range []struct {
		namespace, pattern string
		want               errs.Reason
		text               string
	}{
		{"nope", "", errs.NamespaceNotFound, `"nope"`},
		{"nope", "one", errs.NamespaceNotFound, `"nope"`},
		{"two", "", errs.InvalidField, "several patterns"},
		{"two", "nope", errs.PatternNotFound, `"nope"`},
		{"open", "nope", errs.PatternNotFound, `"nope"`},
		{"two", "one", errs.KeyNotFound, ""},
		{"open", "data", errs.KeyNotFound, ""},
		{strings.Repeat("n", 1000), "", errs.NamespaceNotFound, `nnn"`},
	} {
		var more []string
		if x.pattern != "" {
			more = []string{"x-prism-pattern", x.pattern}
		}
		_, err := c.Retrieve(in(t, x.namespace, more...), &keyvaluev1.RetrieveRequest{Key: "a"})
		e := told(t, x.namespace+"/"+x.pattern, err, x.want)
		if !strings.Contains(e.Message, x.text) || len(e.Message) > 300 {
			t.Errorf("%s/%s: %q does not say %q", x.namespace, x.pattern, e.Message, x.text)
		}
		if got := overHTTP(t, s, x.namespace, x.pattern, ""); !strings.Contains(got, `"reason": "`+x.want.String()+`"`) {
			t.Errorf("%s/%s over HTTP: %s", x.namespace, x.pattern, got)
		}
	}
}

package sqlite_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/sqlite"
	"github.com/prismgw/prism/errs"
)

func TestConfigurationMistakes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		url, options, asserts string
		tls                   bool
		want                  []string // paths of the violations
	}{
		"memory":       {url: "sqlite::memory:", want: []string{"url"}},
		"no file":      {url: "sqlite:", want: []string{"url"}},
		"folder":       {url: "sqlite:data/", want: []string{"url"}},
		"host":         {url: "sqlite://data/prism.db", want: []string{"url"}},
		"query":        {url: "sqlite:prism.db?mode=ro", want: []string{"url"}},
		"scheme":       {url: "file:prism.db", want: []string{"url"}},
		"nul":          {url: "sqlite:a%00b", want: []string{"url"}},
		"unknown":      {url: "sqlite:a", options: `{"cache": 1}`, want: []string{"options"}},
		"wrong type":   {url: "sqlite:a", options: `{"readers": "2"}`, want: []string{"options"}},
		"no duration":  {url: "sqlite:a", options: `{"busy_timeout": "soon"}`, want: []string{"options"}},
		"all at once":  {url: "x:", options: `{"synchronous":"off","busy_timeout":"-1s","max_value":1,"readers":0}`, tls: true, want: []string{"url", "options.synchronous", "options.busy_timeout", "options.max_value", "options.readers", "tls"}},
		"over the top": {url: "sqlite:a", options: `{"busy_timeout":"1h","max_value":2000000000,"readers":1000}`, want: []string{"options.busy_timeout", "options.max_value", "options.readers"}},
		"asserts":      {url: "sqlite:a", asserts: `{"fsync": true}`, want: []string{"asserts"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := driver.Config{Name: "main", URL: tc.url, Dir: t.TempDir(), Options: json.RawMessage(tc.options), Asserts: json.RawMessage(tc.asserts)}
			if tc.tls {
				c.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
			}
			conn, err := sqlite.Driver().Open(c)
			if err == nil {
				_ = conn.Close()
				t.Fatal("opened")
			}
			var got []string
			for _, f := range errs.From(err).Fields {
				got = append(got, f.Path)
			}
			if strings.Join(got, " ") != strings.Join(tc.want, " ") {
				t.Fatalf("violations of %v, want %v: %v", got, tc.want, err)
			}
		})
	}
}

func TestPathsAndPermissions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	absolute := filepath.Join(dir, "b", "prism.db")
	for name, tc := range map[string]struct{ url, file string }{
		"relative": {"sqlite:deep/er/prism.db", filepath.Join(dir, "deep", "er", "prism.db")},
		"absolute": {"sqlite://" + absolute, absolute},
		"hostile":  {"sqlite:c%3Fd%23%25 ü.db", filepath.Join(dir, "c?d#% ü.db")},
	} {
		t.Run(name, func(t *testing.T) {
			conn := openFile(t, dir, func(c *driver.Config) { c.URL = tc.url })
			b := space(t, conn, "demo", "")
			put(t, b.KV, "k", "v")
			for _, suffix := range []string{"", "-wal", ".lock"} {
				info, err := os.Stat(tc.file + suffix)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode().Perm() != 0o600 {
					t.Errorf("%s: mode %v", suffix, info.Mode())
				}
			}
			if parent := filepath.Dir(tc.file); parent != dir {
				info, err := os.Stat(parent)
				if err != nil || info.Mode().Perm() != 0o700 {
					t.Errorf("folder: %v %v", info, err)
				}
			}
			if want := tc.file + "#prism_kv"; b.Extent.Container != want {
				t.Errorf("container %q, want %q", b.Extent.Container, want)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(tc.file + "-wal"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the log is still there after Close: %v", err)
			}
		})
	}
}

func TestOptionsAreHonoured(t *testing.T) {
	t.Parallel()
	conn := openFile(t, t.TempDir(), func(c *driver.Config) {
		c.Options = json.RawMessage(`{"synchronous":"normal","max_value":100,"readers":1,"busy_timeout":"0s"}`)
	})
	kv := space(t, conn, "demo", "").KV
	put(t, kv, "k", strings.Repeat("x", 100))
	res := one(kv, driver.Op{Kind: driver.Put, Key: "k", Value: make([]byte, 101)})
	if errs.ReasonOf(res.Err) != errs.PayloadTooLarge {
		t.Errorf("101 bytes: %v", res.Err)
	}
	if g := kv.Guarantees(); g.MaxValue != 100 || g.Ack.OS || !g.Ack.Process || g.Shared {
		t.Errorf("guarantees %+v", g)
	}
	if got := sqlite.Pragma(conn, "synchronous"); got != 1 {
		t.Errorf("synchronous is %d, want 1", got)
	}
	if got := sqlite.Readers(conn); got != 1 {
		t.Errorf("%d readers", got)
	}
}

func TestDurableByDefault(t *testing.T) {
	t.Parallel()
	conn := openFile(t, t.TempDir(), nil)
	kv := space(t, conn, "demo", "").KV
	if got := sqlite.Pragma(conn, "synchronous"); got != 2 {
		t.Errorf("synchronous is %d, want 2, which is FULL", got)
	}
	if ack := kv.Guarantees().Ack; !ack.Process || !ack.OS || ack.Node {
		t.Errorf("ack %+v", ack)
	}
	if acks := sqlite.Driver().Acks; len(acks) != 2 || acks[0] != kv.Guarantees().Ack {
		t.Errorf("acks %+v", acks)
	}
}

func TestLayoutMistakes(t *testing.T) {
	t.Parallel()
	conn := openFile(t, t.TempDir(), nil)
	for raw, want := range map[string]string{
		`{}`: "layout.table layout.key layout.value",
		`{"table":"carts","key":"id","value":"ID"}`:                 "layout.value",
		`{"table":"PRISM_kv","key":"id","value":"doc"}`:             "layout.table",
		`{"table":"a\u0000b","key":"id","value":"doc"}`:             "layout.table",
		`{"table":"carts","key":"id","value":"doc","expires":"at"}`: "layout",
		`{"table":7}`: "layout",
		`[]`:          "layout",
	} {
		_, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p", Layout: json.RawMessage(raw)})
		var got []string
		for _, f := range errs.From(err).Fields {
			got = append(got, f.Path)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: violations of %v, want %s: %v", raw, got, want, err)
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := openFile(t, dir, nil)
	kv := space(t, first, "demo", "").KV
	put(t, kv, "k", "v")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	script(t, dir, "UPDATE prism_schema SET value = 99 WHERE name = 'schema'")
	second := openFile(t, dir, nil)
	err := second.Ping(context.Background())
	if errs.ReasonOf(err) != errs.BackendUnavailable || !strings.Contains(err.Error(), "schema 99") {
		t.Fatalf("ping: %v", err)
	}
	if _, err := space(t, second, "demo", "").KV.Get(context.Background(), "k", driver.WithExpiry); errs.ReasonOf(err) != errs.BackendUnavailable {
		t.Fatalf("get: %v", err)
	}
	script(t, dir, "UPDATE prism_schema SET value = 1 WHERE name = 'schema'")
	if got := get(t, space(t, second, "demo", "").KV, "k"); string(got.Value) != "v" {
		t.Fatalf("got %q", got.Value)
	}
}

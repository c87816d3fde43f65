package namespace

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
	"github.com/prismgw/prism/errs"
)

func decodeString(t *testing.T, text string) *Set {
	t.Helper()
	set, err := Decode(File{Name: "a.yaml", Data: []byte(text)})
	if err != nil {
		t.Fatalf("Decode:\n%v", err)
	}
	return set
}

// TestValues reads every field there is, and compares with the message.
func TestValues(t *testing.T) {
	t.Parallel()
	set := decodeString(t, `
kind: Backend
name: r
driver: redis
url: rediss://r:6379
credentials: env://R
tls: {ca: ca.pem, cert: c.pem, key: k.pem, server_name: r}
options: {a: no, b: 2026-12-01, c: 5, d: -1.5e3, e: true, f: null, g: [1, "1", {h: {}}], i: "017", j: 1:20}
asserts: {appendfsync: no}
region: no
---
kind: Namespace
name: "1"
team: 007
description: >-
  one
  line
labels: {a: 1.10, b: true}
stores: [yes, 1e3]
patterns:
- {name: p, kind: keyvalue, slots: {store-kv: {backend: r, layout: {keys: "x{key}"}}}, settings: {ttl: 5s}}
needs: {durability: strong, consistency: strong}
auth: {anonymous: read_only}
limits: {read_rps: 1, write_rps: 2147483647, concurrency: 0}
`)
	options, err := structpb.NewStruct(map[string]any{
		"a": "no", "b": "2026-12-01", "c": 5, "d": -1500, "e": true, "f": nil,
		"g": []any{1, "1", map[string]any{"h": map[string]any{}}}, "i": "017", "j": "1:20",
	})
	if err != nil {
		t.Fatal(err)
	}
	text := func(key, value string) *structpb.Struct {
		return &structpb.Struct{Fields: map[string]*structpb.Value{key: structpb.NewStringValue(value)}}
	}
	same(t, set.Backends[0].Spec, &namespacev1.Backend{
		Name: "r", Driver: "redis", Url: "rediss://r:6379", Credentials: "env://R", Region: "no",
		Tls:     &namespacev1.TLS{Ca: "ca.pem", Cert: "c.pem", Key: "k.pem", ServerName: "r"},
		Options: options, Asserts: text("appendfsync", "no"),
	})
	same(t, set.Namespaces[0].Spec, &namespacev1.Namespace{
		Name: "1", Team: "007", Description: "one line", Labels: map[string]string{"a": "1.10", "b": "true"},
		Stores: []string{"yes", "1e3"},
		Patterns: []*namespacev1.Pattern{{
			Name: "p", Kind: "keyvalue", Settings: text("ttl", "5s"),
			Slots: map[string]*namespacev1.Slot{"store-kv": {Backend: "r", Layout: text("keys", "x{key}")}},
		}},
		Needs:  &namespacev1.Needs{Durability: "strong", Consistency: "strong"},
		Auth:   &namespacev1.Auth{Anonymous: "read_only"},
		Limits: &namespacev1.Limits{ReadRps: 1, WriteRps: 2147483647},
	})
}

func same(t *testing.T, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestEveryFieldCanBeWritten sees that documents.proto has only fields of
// types that the decoder knows.
func TestEveryFieldCanBeWritten(t *testing.T) {
	t.Parallel()
	known := []protoreflect.Kind{protoreflect.StringKind, protoreflect.Int32Kind, protoreflect.Int64Kind, protoreflect.BoolKind}
	var check func(m protoreflect.MessageDescriptor)
	check = func(m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if f.IsMap() {
				f = f.MapValue()
			}
			switch {
			case slices.Contains(known, f.Kind()), isStruct(f):
			case f.Message() != nil:
				check(f.Message())
			default:
				t.Errorf("%s is a %s", f.FullName(), f.Kind())
			}
		}
	}
	check((*namespacev1.Backend)(nil).ProtoReflect().Descriptor())
	check((*namespacev1.Namespace)(nil).ProtoReflect().Descriptor())
}

func TestErrorHasItsReason(t *testing.T) {
	t.Parallel()
	_, err := Decode(File{Name: "a.yaml", Data: []byte("kind: Namespace\nname: A\nstores: [B]\n")})
	if !errors.Is(err, errs.InvalidConfiguration) {
		t.Errorf("%v is not INVALID_CONFIGURATION", err)
	}
	var list *Error
	if !errors.As(err, &list) || len(list.Mistakes) != 2 || list.Mistakes[1].Line != 3 || list.Mistakes[1].Column != 10 {
		t.Errorf("mistakes: %+v", list)
	}
	if fields := errs.From(err).Fields; len(fields) != 2 || fields[1].Path != "a.yaml: stores[0]" {
		t.Errorf("fields: %+v", fields)
	}
}

func TestFileLimits(t *testing.T) {
	t.Parallel()
	comment := "# " + strings.Repeat("x", MaxFile) + "\n"
	for _, c := range []struct{ name, text, want string }{
		{"size", "kind: Namespace\nname: a\n" + comment, "a.yaml: the file has 1048603 bytes, over the limit of 1048576; spread its documents over several files"},
		{"utf8", "kind: Namespace\nname: a\nteam: \xff\n", "a.yaml:3:1: the text is not UTF-8"},
		{"depth", "kind: Backend\nname: a\ndriver: memory\noptions: " + strings.Repeat("{a: ", 40) + "1" + strings.Repeat("}", 40), "more than 32 levels deep"},
		{"deeper", "kind: Backend\noptions: " + strings.Repeat("[", 100_000), "exceeded max depth of 10000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := Decode(File{Name: "a.yaml", Data: []byte(c.text)})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestManyMistakes sees that the list ends and the rest is counted.
func TestManyMistakes(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("kind: Namespace\nname: a\n")
	for i := range maxMistakes + 7 {
		fmt.Fprintf(&text, "zzzzzzzz%d: 1\n", i)
	}
	_, err := Decode(File{Name: "a.yaml", Data: []byte(text.String())})
	var list *Error
	if !errors.As(err, &list) || len(list.Mistakes) != maxMistakes || list.More != 7 || !strings.HasSuffix(err.Error(), "\nand 7 more mistakes") {
		t.Errorf("%d mistakes and %d more", len(list.Mistakes), list.More)
	}
}

// TestNoSecretIsShown sees that no mistake repeats a value that could be one.
func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, want := split(archive); strings.Contains(want, "hunter2") || strings.Contains(want, "ter2") {
			t.Errorf("%s shows a password", path)
		}
	}
}

// cpuTime returns the processor time that this process has used. It does not
// depend on what else the machine does, but on tests that run in parallel.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestManyNamespaces loads as many namespaces as a big platform has.
func TestManyNamespaces(t *testing.T) {
	const namespaces = 10_000
	files := []File{{Name: "backend.yaml", Data: []byte("kind: Backend\nname: db\ndriver: sqlite\nurl: sqlite:x.db\n")}}
	for at := 0; at < namespaces; {
		var text bytes.Buffer
		for ; at < namespaces && text.Len() < MaxFile-1000; at++ {
			fmt.Fprintf(&text, "---\nkind: Namespace\nname: ns-%d\nteam: t\nlabels: {tier: gold}\nstores: [carts]\npatterns:\n- {name: b, kind: keyvalue, slots: {store-kv: {backend: db, layout: {keys: \"n%d:{key}\"}}}}\nlimits: {read_rps: 100}\n", at, at)
		}
		files = append(files, File{Name: fmt.Sprintf("%d.yaml", len(files)), Data: text.Bytes()})
	}
	start := cpuTime(t)
	_, plan, err := Load(testCatalog(), files...)
	if err != nil || len(plan.Namespaces) != namespaces {
		t.Fatalf("%v", err)
	}
	if took := cpuTime(t) - start; took > 2*time.Second && !raceEnabled {
		t.Errorf("%d namespaces took %v", namespaces, took)
	}
}

// TestRoundTrip writes any set in both formats and reads it back.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, format := range []Format{YAML, JSON} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				set := drawSet(t)
				text, err := Marshal(set, format)
				if err != nil {
					t.Fatal(err)
				}
				got, err := Decode(File{Name: "a", Data: text})
				if err != nil {
					t.Fatalf("%v\nin\n%s", err, text)
				}
				want, have := set.messages(), got.messages()
				if len(want) != len(have) {
					t.Fatalf("%d documents became %d", len(want), len(have))
				}
				for i := range want {
					if !proto.Equal(want[i], have[i]) {
						t.Fatalf("%v\nbecame\n%v\nby\n%s", want[i], have[i], text)
					}
				}
			})
		})
	}
}

// drawSet makes any set that has no mistakes, with any text where any is allowed.
func drawSet(t *rapid.T) *Set {
	set := new(Set)
	for i := range rapid.IntRange(0, 2).Draw(t, "backends") {
		set.Backends = append(set.Backends, &Backend{Spec: &namespacev1.Backend{
			Name: fmt.Sprintf("b%d", i), Driver: "memory", Credentials: "env://X", Region: rapid.String().Draw(t, "region"),
			Options: drawStruct(t), Asserts: drawStruct(t),
		}})
		if rapid.Bool().Draw(t, "tls") {
			set.Backends[i].Spec.Tls = &namespacev1.TLS{ServerName: rapid.String().Draw(t, "server name")}
		}
	}
	for i := range rapid.IntRange(1, 2).Draw(t, "namespaces") {
		set.Namespaces = append(set.Namespaces, &Namespace{Spec: drawNamespace(t, fmt.Sprintf("n%d", i))})
	}
	return set
}

func drawNamespace(t *rapid.T, name string) *namespacev1.Namespace {
	n := &namespacev1.Namespace{
		Name: name, Team: rapid.String().Draw(t, "team"), Description: rapid.String().Draw(t, "description"),
		Labels: rapid.MapOfN(rapid.SampledFrom([]string{"a", "yes", "1", "null", "0x1f", "a/b"}), rapid.StringN(0, 60, 250), 0, 3).Draw(t, "labels"),
		Stores: rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9]{1,8}`), 0, 3, rapid.ID).Draw(t, "stores"),
	}
	if rapid.Bool().Draw(t, "pattern") {
		n.Patterns = []*namespacev1.Pattern{{
			Name: "the-pattern", Kind: "keyvalue", Settings: drawStruct(t),
			Slots: map[string]*namespacev1.Slot{rapid.String().Draw(t, "slot"): {Backend: rapid.String().Draw(t, "backend"), Layout: drawStruct(t)}},
		}}
	}
	if rapid.Bool().Draw(t, "needs") {
		n.Needs = &namespacev1.Needs{Durability: rapid.SampledFrom([]string{"", "none", "strong"}).Draw(t, "durability")}
		n.Auth = new(namespacev1.Auth)
		n.Limits = &namespacev1.Limits{ReadRps: rapid.Int32Min(0).Draw(t, "rps")}
		n.Topics = []*namespacev1.Topic{{
			Name: rapid.StringMatching(`[a-z0-9]{1,8}`).Draw(t, "topic"), Partitions: rapid.Int32Range(1, 64).Draw(t, "partitions"),
			Retention: &namespacev1.Retention{Bytes: rapid.Int64Min(0).Draw(t, "bytes"), UntilConsumed: rapid.Bool().Draw(t, "until")},
		}}
		n.Queues = []*namespacev1.Queue{{
			Name: rapid.StringMatching(`[a-z0-9]{1,8}`).Draw(t, "queue"), MaxDeliveries: rapid.Int32Range(0, 1000).Draw(t, "deliveries"),
			AckWait: rapid.SampledFrom([]string{"", "1m"}).Draw(t, "ack wait"),
		}}
	}
	return n
}

func drawStruct(t *rapid.T) *structpb.Struct {
	if rapid.Bool().Draw(t, "no struct") {
		return nil
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for range rapid.IntRange(0, 3).Draw(t, "fields") {
		s.Fields[rapid.String().Draw(t, "key")] = drawValue(t, 2)
	}
	return s
}

func drawValue(t *rapid.T, depth int) *structpb.Value {
	switch rapid.IntRange(0, 6).Draw(t, "type") {
	case 0:
		return structpb.NewNullValue()
	case 1:
		return structpb.NewBoolValue(rapid.Bool().Draw(t, "bool"))
	case 2:
		return structpb.NewNumberValue(float64(rapid.Int32().Draw(t, "int")))
	case 3:
		return structpb.NewNumberValue(rapid.OneOf(rapid.Float64(), rapid.Map(rapid.Float64(), math.Trunc), rapid.SampledFrom([]float64{math.Copysign(0, -1), 1e15, 1e21, 1e20, 1 << 63, math.MaxFloat64, 5e-324})).Draw(t, "float"))
	case 4:
		if depth > 0 {
			return structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{drawValue(t, depth-1), drawValue(t, depth-1)}})
		}
	case 5:
		if depth > 0 {
			return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{rapid.String().Draw(t, "key"): drawValue(t, depth-1)}})
		}
	}
	return structpb.NewStringValue(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "no", "~", "null", "1", "017", "<<", "- a", "a: b", "# c", " x ", "\n", "\r\n", "\t", "\u0085", "\u2028", "\ufeff", "\x7f", "---", "2026-01-01", "a\n b\n", "\nx", "x\n\n"})).Draw(t, "text"))
}

func TestMarshalRefuses(t *testing.T) {
	t.Parallel()
	set := decodeString(t, "{kind: Namespace, name: a}")
	if _, err := Marshal(set, "yml"); err == nil || !strings.Contains(err.Error(), `did you mean "yaml"`) {
		t.Errorf("format yml: %v", err)
	}
	nan := &structpb.Struct{Fields: map[string]*structpb.Value{"x": structpb.NewNumberValue(math.NaN())}}
	set.Backends = []*Backend{{Spec: &namespacev1.Backend{Options: nan}}}
	if _, err := Marshal(set, JSON); err == nil {
		t.Error("NaN was written")
	}
}

// FuzzDecode sees that no text makes the decoder panic or hang, that every
// mistake is one line with a place, and that what is read can be written and
// read again.
func FuzzDecode(f *testing.F) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no testdata: %v", err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(file.Data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, _, err := Load(testCatalog(), File{Name: "a.yaml", Data: data})
		if err != nil {
			checkMistakes(t, err)
			return
		}
		for _, format := range []Format{YAML, JSON} {
			text, err := Marshal(set, format)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Decode(File{Name: "a.yaml", Data: text})
			if err != nil {
				t.Fatalf("%v\nin\n%s", err, text)
			}
			for i, m := range set.messages() {
				if !proto.Equal(m, again.messages()[i]) {
					t.Fatalf("%v became %v", m, again.messages()[i])
				}
			}
		}
	})
}

func checkMistakes(t *testing.T, err error) {
	t.Helper()
	var list *Error
	if !errors.As(err, &list) || len(list.Mistakes) == 0 || len(list.Mistakes) > maxMistakes {
		t.Fatalf("%T with no list", err)
	}
	for _, m := range list.Mistakes {
		if m.File != "a.yaml" || m.Text == "" || strings.ContainsAny(m.String(), "\n") {
			t.Fatalf("a mistake that is none: %q", m)
		}
	}
}

func TestOriginOfRelativePaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set, err := Decode(File{Name: filepath.Join(dir, "a.yaml"), Data: []byte("kind: Backend\nname: a\ndriver: sqlite\nurl: sqlite:x.db\ntls: {ca: ca.pem}\noptions: {pool: 4}\n")})
	if err != nil {
		t.Fatal(err)
	}
	c := set.Backends[0].Config()
	if c.Name != "a" || c.URL != "sqlite:x.db" || c.Dir != dir || string(c.Options) != `{"pool":4}` || c.Asserts != nil {
		t.Errorf("config %+v", c)
	}
	if _, err := set.Backends[0].TLS(); !errors.Is(err, errs.InvalidField) || !strings.Contains(err.Error(), filepath.Join(dir, "ca.pem")) {
		t.Errorf("no ca: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := set.Backends[0].TLS(); err == nil || !strings.Contains(err.Error(), "PEM") {
		t.Errorf("no certificate in ca: %v", err)
	}
}

package envelope

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
)

// The table that the scanner reads by is what envelope.proto says.
func TestShapesAreTheSchemas(t *testing.T) {
	t.Parallel()
	var want, got []string
	walk(new(envelopev1.PrismEnvelope).ProtoReflect().Descriptor(), "", &want)
	walkShapes(envelope, "", &got)
	if slices.Sort(want); len(want) < 50 {
		t.Fatalf("only %d fields were looked at", len(want))
	}
	if slices.Sort(got); !slices.Equal(want, got) {
		t.Errorf("the schema has\n%s\nthe shapes have\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

func walk(m protoreflect.MessageDescriptor, path string, lines *[]string) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		at := fmt.Sprintf("%s/%d", path, f.Number())
		switch f.Kind() {
		case protoreflect.MessageKind:
			*lines = append(*lines, at+" message")
			walk(f.Message(), at, lines)
		case protoreflect.StringKind:
			*lines = append(*lines, at+" text")
		case protoreflect.BytesKind:
			*lines = append(*lines, at+" bytes")
		default:
			*lines = append(*lines, at+" varint")
		}
	}
}

func walkShapes(message kind, path string, lines *[]string) {
	names := map[kind]string{varint: "varint", blob: "bytes", text: "text"}
	for number, what := range shapes[message] {
		at := fmt.Sprintf("%s/%d", path, number)
		switch {
		case what == unknown:
		case what > text:
			*lines = append(*lines, at+" message")
			walkShapes(what, at, lines)
		default:
			*lines = append(*lines, at+" "+names[what])
		}
	}
}

// The names are checked by hand; the expressions of the contract are the judge.
func TestNames(t *testing.T) {
	t.Parallel()
	topic := regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$`)
	namespace := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	names := []string{"", strings.Repeat("a", 63), strings.Repeat("a", 64), strings.Repeat("a", 128), strings.Repeat("a", 129)}
	for a := range 256 {
		for _, b := range "aZ0._-/\n" {
			names = append(names, string([]byte{byte(a)}), string([]byte{byte(a), byte(b)}), string([]byte{byte(b), byte(a), byte(b)}))
		}
	}
	for _, name := range names {
		if isTopic(name) != topic.MatchString(name) || isNamespace(name) != namespace.MatchString(name) {
			t.Errorf("%q: topic %v, namespace %v", name, isTopic(name), isNamespace(name))
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 999_999_999)
	for _, c := range []struct {
		clock     time.Time
		high, low uint64
		want      string
	}{
		{now, 0, 0, "018bcfe5-6be7-7fff-8000-000000000000"},
		{now, 1<<64 - 1, 1<<64 - 1, "018bcfe5-6be7-7fff-bfff-ffffffffffff"},
		{time.UnixMilli(1<<48 - 1), 0, 0, "ffffffff-ffff-7000-8000-000000000000"},
		{time.UnixMilli(1 << 48), 1<<64 - 1, 1<<64 - 1, "ffffffff-ffff-4fff-bfff-ffffffffffff"},
		{time.Unix(-1, 0), 0, 1, "00000000-0000-4000-8000-000000000001"},
		{time.Time{}, 0, 0, "00000000-0000-4000-8000-000000000000"},
	} {
		if got := idFrom(c.clock, c.high, c.low); got != c.want || !isID(got) {
			t.Errorf("%v, %x, %x: %s, want %s", c.clock, c.high, c.low, got, c.want)
		}
	}
}

func TestIDsDiffer(t *testing.T) {
	t.Parallel()
	for _, clock := range []time.Time{{}, time.Now()} { // a clock that stands still, and one that was never set
		seen := map[string]bool{}
		for range 10_000 {
			seen[newID(clock)] = true
		}
		if len(seen) != 10_000 {
			t.Errorf("%d ids are different of 10,000 at %v", len(seen), clock)
		}
	}
}

func TestIDsFollowTheClock(t *testing.T) {
	t.Parallel()
	start, before := time.UnixMilli(1_700_000_000_000), ""
	for step := range 10_000 {
		id := newID(start.Add(time.Duration(step) * time.Microsecond))
		if id <= before {
			t.Fatalf("%s comes after %s", id, before)
		}
		before = id
	}
}

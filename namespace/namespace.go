// Package namespace reads the documents that configure Prism (what backends
// there are, what namespaces are served from them), finds every mistake in
// them, and decides which backend fills which slot.
//
// The way of a configuration is Decode (text to messages, strictly), then
// Resolve (messages to a Plan); Load is both with all mistakes in one error.
// The package opens no backend and reads no secret by itself: what exists is
// told by a Catalog.
package namespace

import (
	"encoding/json"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
	"github.com/prismgw/prism/driver"
)

// MaxFile is the largest file that is read, in bytes.
const MaxFile = 1 << 20

// A File is the text of one file of documents.
type File struct {
	Name string // as mistakes show it
	Dir  string // relative paths in its documents start here; empty: the folder of Name
	Data []byte // YAML or JSON; kept by nobody
}

func (f *File) dir() string {
	if f.Dir != "" {
		return f.Dir
	}
	return filepath.Dir(f.Name)
}

// A Set is the documents of all files, in the order in which they stand
// there. It must not be changed once it has been resolved.
type Set struct {
	Backends   []*Backend
	Namespaces []*Namespace

	// incomplete: a document could not be read at all, so what seems to be
	// missing may stand in it.
	incomplete bool
}

// A Backend is a Backend document and where it came from.
type Backend struct {
	Spec   *namespacev1.Backend
	Origin Origin
}

// A Namespace is a Namespace document and where it came from.
type Namespace struct {
	Spec   *namespacev1.Namespace
	Origin Origin
}

// What callers without credentials may do, as Namespace documents say it.
const (
	AnonymousDeny      = "deny"
	AnonymousReadOnly  = "read_only"
	AnonymousReadWrite = "read_write"
)

// Anonymous returns what callers without credentials may do; AnonymousDeny
// unless the document says otherwise.
func (n *Namespace) Anonymous() string {
	if a := n.Spec.GetAuth().GetAnonymous(); a != "" {
		return a
	}
	return AnonymousDeny
}

// Config returns what a driver needs to know of the document. Credentials,
// TLS, Now and Log are the caller's to add.
func (b *Backend) Config() driver.Config {
	return driver.Config{
		Name:    b.Spec.GetName(),
		URL:     b.Spec.GetUrl(),
		Dir:     b.Origin.Dir,
		Options: rawJSON(b.Spec.GetOptions()),
		Asserts: rawJSON(b.Spec.GetAsserts()),
	}
}

// rawJSON returns s as JSON, nil for nil. A Struct that was decoded can always
// be written; one with numbers that JSON does not have is left to be refused
// by whoever reads "null" where an object has to be.
func rawJSON(s *structpb.Struct) json.RawMessage {
	if s == nil {
		return nil
	}
	raw, err := json.Marshal(s.AsMap())
	if err != nil {
		return json.RawMessage("null")
	}
	return raw
}

// An Origin says where a document came from. The zero Origin is a document
// that was not read from a file.
type Origin struct {
	File string
	Dir  string // relative paths in the document start here
	Line int

	places map[string]place // by path
}

type place struct{ line, column int }

// at returns where the value of a path stands, or else the nearest thing
// around it.
func (o *Origin) at(path string) place {
	for path != "" {
		if p, ok := o.places[path]; ok {
			return p
		}
		path = around(path)
	}
	return place{o.Line, 1}
}

// around returns the path of what is around the value of a path.
func around(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

package namespace

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/prismgw/prism/errs"
)

// maxMistakes is how many mistakes one error lists; the rest is counted.
const maxMistakes = 1000

// A Mistake is one thing that is wrong in a document.
type Mistake struct {
	File   string // or, for a document from no file, its kind and name
	Line   int    // from 1; 0: not known
	Column int    // from 1; 0: not known
	Path   string // "patterns[0].kind"; empty: the document as a whole
	Text   string // what is wrong and what to write; never a value that could be secret
}

// String returns "file:line:column: path: text" without what is not known.
func (m Mistake) String() string {
	var b strings.Builder
	b.WriteString(m.File)
	if m.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", m.Line, m.Column)
	}
	b.WriteString(": ")
	if m.Path != "" {
		b.WriteString(m.Path + ": ")
	}
	b.WriteString(m.Text)
	return b.String()
}

// An Error is everything that is wrong in the documents, sorted by file and
// line. Its reason is errs.InvalidConfiguration.
type Error struct {
	Mistakes []Mistake
	More     int // mistakes that are not listed
}

// Error returns one line for each mistake.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Mistakes)+1)
	for _, m := range e.Mistakes {
		lines = append(lines, m.String())
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more mistakes", e.More))
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the same as an errs.Error with a field for each mistake.
func (e *Error) Unwrap() error {
	out := errs.New(errs.InvalidConfiguration, "the documents have %d mistakes; the first: %s", len(e.Mistakes)+e.More, e.Mistakes[0])
	for _, m := range e.Mistakes {
		field := errs.Field{Path: m.File, Text: m.Text}
		if m.Path != "" {
			field.Path += ": " + m.Path
		}
		out.Fields = append(out.Fields, field)
	}
	return out
}

// report collects mistakes.
type report struct {
	list []Mistake
	more int

	// broken are the documents that have mistakes, with the paths whose
	// values could not be read. What would follow from those is not reported.
	broken map[*Origin]unread
}

// unread are the paths of one document whose values could not be read.
type unread map[string]bool

// covers reports whether path or something around it could not be read.
func (u unread) covers(path string) bool {
	for path != "" {
		if u[path] {
			return true
		}
		path = around(path)
	}
	return false
}

func newReport() *report { return &report{broken: make(map[*Origin]unread)} }

func (r *report) isBroken(o *Origin) bool {
	_, broken := r.broken[o]
	return broken
}

// add notes a mistake, once: two patterns may read the same part of a document.
func (r *report) add(m Mistake) {
	if slices.Contains(r.list, m) {
		return
	}
	if len(r.list) == maxMistakes {
		r.more++
		return
	}
	r.list = append(r.list, m)
}

// backend adds a mistake in a Backend document.
func (r *report) backend(b *Backend, path, format string, args ...any) {
	r.document("Backend", b.Spec.GetName(), &b.Origin, path, fmt.Sprintf(format, args...))
}

// namespace adds a mistake in a Namespace document.
func (r *report) namespace(n *Namespace, path, format string, args ...any) {
	r.document("Namespace", n.Spec.GetName(), &n.Origin, path, fmt.Sprintf(format, args...))
}

func (r *report) document(kind, name string, o *Origin, path, text string) {
	if r.broken[o].covers(path) {
		return
	}
	if !r.isBroken(o) {
		r.broken[o] = nil
	}
	if o.File == "" {
		r.add(Mistake{File: kind + " " + name, Path: path, Text: text})
		return
	}
	at := o.at(path)
	r.add(Mistake{File: o.File, Line: at.line, Column: at.column, Path: path, Text: text})
}

// err returns the Error, nil if nothing was added.
func (r *report) err() error {
	if len(r.list) == 0 {
		return nil
	}
	slices.SortStableFunc(r.list, func(a, b Mistake) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return &Error{Mistakes: r.list, More: r.more}
}

package namespace

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	namespacev1 "github.com/prismgw/prism/api/prism/namespace/v1"
)

// The tags of plain values.
const (
	tagString = "!!str"
	tagInt    = "!!int"
	tagFloat  = "!!float"
	tagBool   = "!!bool"
	tagNull   = "!!null"
)

// kindKey is the key that says which message a document is.
const kindKey = "kind"

// kinds are the values of kindKey.
var kinds = []string{"Backend", "Namespace"}

// Decode reads the documents of all files and checks what can be checked
// without knowing which drivers and patterns there are. If anything is wrong
// it returns an *Error with every mistake.
//
// A file holds any number of documents, in YAML separated by "---", in JSON
// one object after the other. A file without any is a mistake: it is more
// often an editor's half-written file than somebody's wish.
func Decode(files ...File) (*Set, error) {
	r := newReport()
	set := decode(files, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return set, nil
}

// decode returns what could be read, also if there are mistakes.
func decode(files []File, r *report) *Set {
	set := new(Set)
	for i := range files {
		f := &files[i]
		docs, complete := parse(f, r)
		set.incomplete = set.incomplete || !complete
		found := false
		for _, n := range docs {
			if root := content(n); root != nil {
				found = true
				set.decodeDocument(f, root, r)
			}
		}
		if !found && complete {
			r.add(Mistake{File: f.Name, Text: "the file holds no document; write one that begins with kind: Namespace or kind: Backend"})
		}
	}
	validate(set, r)
	return set
}

// content returns what a document holds, nil for nothing.
func content(doc *yaml.Node) *yaml.Node {
	if len(doc.Content) == 0 {
		return nil
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == tagNull && root.Value == "" {
		return nil
	}
	return root
}

// decodeDocument adds one document to the set.
func (s *Set) decodeDocument(f *File, root *yaml.Node, r *report) {
	d := &decoder{report: r, unread: make(unread), origin: Origin{File: f.Name, Dir: f.dir(), Line: root.Line, places: make(map[string]place)}}
	switch kind := d.kindOf(root); kind {
	case "Backend":
		b := &Backend{Spec: new(namespacev1.Backend)}
		d.message(root, b.Spec.ProtoReflect(), "")
		d.finish(&b.Origin)
		s.Backends = append(s.Backends, b)
	case "Namespace":
		n := &Namespace{Spec: new(namespacev1.Namespace)}
		d.message(root, n.Spec.ProtoReflect(), "")
		d.finish(&n.Origin)
		s.Namespaces = append(s.Namespaces, n)
	default:
		s.incomplete = true
	}
}

// A decoder turns the tree of one document into its message.
type decoder struct {
	report *report
	origin Origin
	broken bool
	unread unread
}

// finish puts the origin into the document that it is the origin of.
func (d *decoder) finish(o *Origin) {
	*o = d.origin
	if d.broken {
		d.report.broken[o] = d.unread
	}
}

func (d *decoder) mistake(n *yaml.Node, path, format string, args ...any) {
	d.broken = true
	if path != "" && len(path) <= maxRemembered && len(d.unread) < maxMistakes {
		d.unread[path] = true
	}
	d.report.add(Mistake{File: d.origin.File, Line: n.Line, Column: n.Column, Path: path, Text: fmt.Sprintf(format, args...)})
}

// kindOf returns the value of the key "kind", or "" after telling what is
// wrong with it.
func (d *decoder) kindOf(root *yaml.Node) string {
	if !d.is(root, yaml.MappingNode, "") {
		return ""
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value != kindKey {
			continue
		}
		kind, ok := d.text(root.Content[i+1], kindKey)
		for _, k := range kinds {
			if k == kind {
				return k
			}
		}
		if ok {
			d.mistake(root.Content[i+1], kindKey, "unknown kind %s%s", quote(kind), advise(kind, kinds))
		}
		return ""
	}
	d.mistake(root, "", "the kind is missing; write kind: Namespace or kind: Backend")
	return ""
}

// message fills m with the mapping n.
func (d *decoder) message(n *yaml.Node, m protoreflect.Message, path string) {
	fields := m.Descriptor().Fields()
	d.entries(n, path, func(key, value *yaml.Node, at string) {
		if path == "" && key.Value == kindKey {
			return
		}
		field := fields.ByName(protoreflect.Name(key.Value))
		if field == nil {
			d.mistake(key, at, "unknown key %s%s", quote(key.Value), advise(key.Value, fieldNames(fields)))
			return
		}
		d.field(value, m, field, at)
	})
}

func fieldNames(fields protoreflect.FieldDescriptors) []string {
	names := make([]string, fields.Len())
	for i := range names {
		names[i] = string(fields.Get(i).Name())
	}
	return names
}

// entries calls f for each entry of the mapping n, with the path of its value.
// Keys that cannot be one are told and left out.
func (d *decoder) entries(n *yaml.Node, path string, f func(key, value *yaml.Node, at string)) {
	if !d.is(n, yaml.MappingNode, path) {
		return
	}
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Tag == "!!merge" {
			d.mistake(key, path, "merge keys (<<) are not taken; write the values out")
			continue
		}
		if !d.plain(key, path) {
			continue
		}
		if key.Kind != yaml.ScalarNode {
			d.mistake(key, path, "a key is text, this is %s", what(key))
			continue
		}
		at := join(path, key.Value)
		if line, twice := lines[key.Value]; twice {
			d.mistake(key, at, "the key %s is here twice, first in line %d; remove one", quote(key.Value), line)
			continue
		}
		lines[key.Value] = key.Line
		d.remember(key, value, at)
		f(key, value, at)
	}
}

// maxRemembered is the longest path whose place is kept, in bytes; what is
// deeper is found by what is around it.
const maxRemembered = 256

// remember notes where a value stands: the value itself if it is one word,
// its key if it goes on for lines.
func (d *decoder) remember(key, value *yaml.Node, at string) {
	if len(at) > maxRemembered {
		return
	}
	if value.Kind != yaml.ScalarNode {
		value = key
	}
	d.origin.places[at] = place{value.Line, value.Column}
}

// join returns the path of a key below path.
func join(path, key string) string {
	if key == "" || len(key) > maxShown || strings.ContainsAny(key, ". []:\"\n") {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// field sets one field of m to n.
func (d *decoder) field(n *yaml.Node, m protoreflect.Message, field protoreflect.FieldDescriptor, path string) {
	switch {
	case field.IsMap():
		d.mapping(n, m, field, path)
	case field.IsList():
		d.list(n, m, field, path)
	case isStruct(field):
		if s := d.structure(n, path, 0); s != nil {
			m.Set(field, protoreflect.ValueOfMessage(s.ProtoReflect()))
		}
	case field.Message() != nil:
		d.message(n, m.Mutable(field).Message(), path)
	default:
		if v, ok := d.scalar(n, field, path); ok {
			m.Set(field, v)
		}
	}
}

func isStruct(field protoreflect.FieldDescriptor) bool {
	return field.Message() != nil && field.Message().FullName() == (*structpb.Struct)(nil).ProtoReflect().Descriptor().FullName()
}

func (d *decoder) mapping(n *yaml.Node, m protoreflect.Message, field protoreflect.FieldDescriptor, path string) {
	values := m.Mutable(field).Map()
	d.entries(n, path, func(key, value *yaml.Node, at string) {
		v := values.NewValue()
		if field.MapValue().Message() != nil {
			d.message(value, v.Message(), at)
		} else if s, ok := d.scalar(value, field.MapValue(), at); ok {
			v = s
		}
		values.Set(protoreflect.ValueOfString(key.Value).MapKey(), v)
	})
}

func (d *decoder) list(n *yaml.Node, m protoreflect.Message, field protoreflect.FieldDescriptor, path string) {
	if !d.is(n, yaml.SequenceNode, path) {
		return
	}
	values := m.Mutable(field).List()
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		d.origin.places[at] = place{item.Line, item.Column}
		v := values.NewElement()
		if field.Message() != nil {
			d.message(item, v.Message(), at)
		} else if s, ok := d.scalar(item, field, at); ok {
			v = s
		}
		values.Append(v)
	}
}

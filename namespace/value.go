package namespace

import (
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxDepth is how deep options, settings and layouts nest.
const maxDepth = 32

var (
	decimal    = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)
	jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)
)

// plain reports whether n is what it looks like: no alias, anchor or tag.
func (d *decoder) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.mistake(n, path, "anchors (&) and aliases (*) are not taken; write the value out, or in quotes if it is text")
	case n.Style&yaml.TaggedStyle != 0:
		d.mistake(n, path, "tags (!) are not taken; write text in quotes and numbers without")
	default:
		return true
	}
	return false
}

// is reports whether n is of a kind, after telling if not.
func (d *decoder) is(n *yaml.Node, kind yaml.Kind, path string) bool {
	if !d.plain(n, path) {
		return false
	}
	if n.Kind == kind {
		return true
	}
	needed := map[yaml.Kind]string{
		yaml.MappingNode:  "keys with values are needed",
		yaml.SequenceNode: "a list is needed",
		yaml.ScalarNode:   "one value is needed",
	}[kind]
	advice := ""
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == tagNull:
		advice = "; write them or remove the key"
	case kind == yaml.SequenceNode:
		advice = "; write it in [ ] or on lines that begin with -"
	case path == "" && n.Kind == yaml.SequenceNode:
		advice = "; write each document by itself, in YAML with --- between them"
	}
	d.mistake(n, path, "%s, this is %s%s", needed, what(n), advice)
	return false
}

// what says in words what n is; never its value.
func what(n *yaml.Node) string {
	switch n.Kind { //nolint:exhaustive // the others are scalar
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.Tag {
	case tagNull:
		return "empty"
	case tagInt, tagFloat:
		return "a number"
	case tagBool:
		return "true or false"
	}
	return "text"
}

// scalar returns n as a value of the field.
func (d *decoder) scalar(n *yaml.Node, field protoreflect.FieldDescriptor, path string) (protoreflect.Value, bool) {
	switch field.Kind() { //nolint:exhaustive // the others are told below; a test sees that no field has them
	case protoreflect.StringKind:
		s, ok := d.text(n, path)
		return protoreflect.ValueOfString(s), ok
	case protoreflect.Int32Kind:
		i, ok := d.whole(n, 32, path)
		return protoreflect.ValueOfInt32(int32(i)), ok
	case protoreflect.Int64Kind:
		i, ok := d.whole(n, 64, path)
		return protoreflect.ValueOfInt64(i), ok
	case protoreflect.BoolKind:
		b, ok := d.truth(n, path)
		return protoreflect.ValueOfBool(b), ok
	}
	d.mistake(n, path, "fields of type %s cannot be written yet", field.Kind())
	return protoreflect.Value{}, false
}

// text returns n as text. What YAML takes for a number, a date or a truth
// value is text here, as it was written: 1.10 stays 1.10 and no stays no. In
// JSON, where text has quotes, only text is text.
func (d *decoder) text(n *yaml.Node, path string) (string, bool) {
	if !d.is(n, yaml.ScalarNode, path) {
		return "", false
	}
	if n.Tag == tagNull {
		d.mistake(n, path, "text is needed, this is empty; write it or remove the key")
		return "", false
	}
	if n.Tag != tagString && n.Style&yaml.DoubleQuotedStyle != 0 {
		d.mistake(n, path, "text is needed, this is %s; write it in quotes", what(n))
		return "", false
	}
	return n.Value, true
}

// truth returns n as a truth value.
func (d *decoder) truth(n *yaml.Node, path string) (value, ok bool) {
	if !d.is(n, yaml.ScalarNode, path) {
		return false, false
	}
	if n.Tag != tagBool {
		d.mistake(n, path, "true or false is needed, this is %s", what(n))
		return false, false
	}
	return n.Value[0]|0x20 == 't', true
}

// whole returns n as a whole number of so many bits.
func (d *decoder) whole(n *yaml.Node, bits int, path string) (int64, bool) {
	if !d.is(n, yaml.ScalarNode, path) {
		return 0, false
	}
	if n.Tag == tagString && decimal.MatchString(n.Value) {
		d.mistake(n, path, "a number is needed, this is text; write it without quotes")
		return 0, false
	}
	if n.Tag != tagInt || !decimal.MatchString(n.Value) {
		d.mistake(n, path, "a whole number in decimal is needed, such as 500; this is %s", what(n))
		return 0, false
	}
	i, err := strconv.ParseInt(n.Value, 10, bits)
	if err != nil {
		d.mistake(n, path, "the number is out of range; at most %d", int64(math.MaxInt64)>>(64-bits))
		return 0, false
	}
	return i, true
}

// structure returns the mapping n as plain JSON types, nil if there is
// anything wrong with it.
func (d *decoder) structure(n *yaml.Node, path string, depth int) *structpb.Struct {
	s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(n.Content)/2)}
	if !d.is(n, yaml.MappingNode, path) || !d.shallow(n, path, depth) {
		return nil
	}
	good := true
	d.entries(n, path, func(key, value *yaml.Node, at string) {
		v := d.json(value, at, depth+1)
		good = good && v != nil
		s.Fields[key.Value] = v
	})
	if !good {
		return nil
	}
	return s
}

func (d *decoder) shallow(n *yaml.Node, path string, depth int) bool {
	if depth <= maxDepth {
		return true
	}
	d.mistake(n, path[:min(len(path), maxShown)], "more than %d levels deep", maxDepth)
	return false
}

// json returns n as a plain JSON value, nil after telling what is wrong.
func (d *decoder) json(n *yaml.Node, path string, depth int) *structpb.Value {
	if !d.plain(n, path) {
		return nil
	}
	switch n.Kind { //nolint:exhaustive // what remains is scalar; plain has refused aliases
	case yaml.MappingNode:
		if s := d.structure(n, path, depth); s != nil {
			return structpb.NewStructValue(s)
		}
		return nil
	case yaml.SequenceNode:
		return d.jsonList(n, path, depth)
	}
	switch n.Tag {
	case tagNull:
		return structpb.NewNullValue()
	case tagBool:
		return structpb.NewBoolValue(n.Value[0]|0x20 == 't')
	case tagInt, tagFloat:
		return d.number(n, path)
	}
	return structpb.NewStringValue(n.Value)
}

func (d *decoder) jsonList(n *yaml.Node, path string, depth int) *structpb.Value {
	if !d.shallow(n, path, depth) {
		return nil
	}
	list := &structpb.ListValue{Values: make([]*structpb.Value, len(n.Content))}
	good := true
	for i, item := range n.Content {
		list.Values[i] = d.json(item, path+"["+strconv.Itoa(i)+"]", depth+1)
		good = good && list.Values[i] != nil
	}
	if !good {
		return nil
	}
	return structpb.NewListValue(list)
}

// number takes only what JSON takes for a number. Octal, hexadecimal,
// underscores and infinity mean different things to different readers.
func (d *decoder) number(n *yaml.Node, path string) *structpb.Value {
	f, err := strconv.ParseFloat(n.Value, 64)
	switch {
	case !jsonNumber.MatchString(n.Value):
		d.mistake(n, path, "this could be read as a number or as text; write it in plain decimal, or in quotes")
	case err != nil, !strings.ContainsAny(n.Value, ".eE") && !exact(f, n.Value):
		d.mistake(n, path, "the number is too large to be kept exactly; write it in quotes")
	default:
		return structpb.NewNumberValue(f)
	}
	return nil
}

// exact reports whether f is the whole number of the text.
func exact(f float64, text string) bool {
	return strconv.FormatFloat(f, 'f', -1, 64) == text || strconv.FormatFloat(f, 'f', 0, 64) == text
}

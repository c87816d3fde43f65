package namespace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// A Format is a way to write documents.
type Format string

// The formats.
const (
	YAML Format = "yaml" // documents with "---" between them
	JSON Format = "json" // objects, one after the other
)

// Marshal writes the documents of a set, backends first, so that Decode reads
// the same messages back.
func Marshal(set *Set, format Format) ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	for _, m := range set.messages() {
		n, err := document(m.ProtoReflect())
		if err != nil {
			return nil, err
		}
		switch format {
		case YAML:
			if err := encoder.Encode(n); err != nil {
				return nil, fmt.Errorf("yaml: %w", err)
			}
		case JSON:
			if err := writeJSON(&out, n); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("unknown format %s%s", quote(string(format)), advise(string(format), []string{string(YAML), string(JSON)}))
		}
	}
	return out.Bytes(), nil
}

// messages returns the documents of the set.
func (s *Set) messages() []proto.Message {
	all := make([]proto.Message, 0, len(s.Backends)+len(s.Namespaces))
	for _, b := range s.Backends {
		all = append(all, b.Spec)
	}
	for _, n := range s.Namespaces {
		all = append(all, n.Spec)
	}
	return all
}

// document returns the tree of a message with its kind.
func document(m protoreflect.Message) (*yaml.Node, error) {
	n, err := messageNode(m)
	if err != nil {
		return nil, err
	}
	kind := []*yaml.Node{textNode(kindKey), textNode(string(m.Descriptor().Name()))}
	n.Content = append(kind, n.Content...)
	return n, nil
}

// messageNode returns the tree of a message, its fields in the order of their
// numbers and without those that are not set.
func messageNode(m protoreflect.Message) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.MappingNode}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		value, err := fieldNode(m.Get(field), field)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field.Name(), err)
		}
		n.Content = append(n.Content, textNode(string(field.Name())), value)
	}
	return n, nil
}

func fieldNode(v protoreflect.Value, field protoreflect.FieldDescriptor) (*yaml.Node, error) {
	switch {
	case field.IsMap():
		return mapNode(v.Map(), field.MapValue())
	case field.IsList():
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.List().Len() {
			item, err := valueNode(v.List().Get(i), field)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		return n, nil
	}
	return valueNode(v, field)
}

func mapNode(m protoreflect.Map, field protoreflect.FieldDescriptor) (*yaml.Node, error) {
	keys := make([]string, 0, m.Len())
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool {
		keys = append(keys, k.String())
		return true
	})
	slices.Sort(keys)
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range keys {
		value, err := valueNode(m.Get(protoreflect.ValueOfString(k).MapKey()), field)
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, textNode(k), value)
	}
	return n, nil
}

func valueNode(v protoreflect.Value, field protoreflect.FieldDescriptor) (*yaml.Node, error) {
	switch field.Kind() { //nolint:exhaustive // the same kinds as decoder.scalar
	case protoreflect.StringKind:
		return textNode(v.String()), nil
	case protoreflect.BoolKind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagBool, Value: strconv.FormatBool(v.Bool())}, nil
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagInt, Value: strconv.FormatInt(v.Int(), 10)}, nil
	case protoreflect.MessageKind:
		if s, ok := v.Message().Interface().(*structpb.Struct); ok {
			return structNode(s)
		}
		return messageNode(v.Message())
	}
	return nil, fmt.Errorf("fields of type %s cannot be written yet", field.Kind())
}

func structNode(s *structpb.Struct) (*yaml.Node, error) {
	keys := make([]string, 0, len(s.GetFields()))
	for k := range s.GetFields() {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range keys {
		value, err := jsonNode(s.GetFields()[k])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		n.Content = append(n.Content, textNode(k), value)
	}
	return n, nil
}

func jsonNode(v *structpb.Value) (*yaml.Node, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		return structNode(k.StructValue)
	case *structpb.Value_ListValue:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for _, item := range k.ListValue.GetValues() {
			child, err := jsonNode(item)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		return n, nil
	case *structpb.Value_StringValue:
		return textNode(k.StringValue), nil
	case *structpb.Value_BoolValue:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagBool, Value: strconv.FormatBool(k.BoolValue)}, nil
	case *structpb.Value_NumberValue:
		return numberNode(k.NumberValue)
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tagNull, Value: "null"}, nil
}

// maxPlain is where whole numbers begin to be written with an exponent, below
// what YAML readers keep as whole numbers.
const maxPlain = 1e15

func numberNode(f float64) (*yaml.Node, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("%v cannot be written", f)
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: tagFloat, Value: strconv.FormatFloat(f, 'g', -1, 64)}
	switch {
	case f == 0 && math.Signbit(f):
		n.Value = "-0.0"
	case f == math.Trunc(f) && math.Abs(f) < maxPlain:
		n.Tag, n.Value = tagInt, strconv.FormatFloat(f, 'f', -1, 64)
	}
	return n, nil
}

// textNode returns s in a form that is text to every reader of YAML: as it is
// or, where it has several lines, as a block; in quotes with escapes if there
// is anything in it that cannot be seen.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	if !visible(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// visible reports whether s is lines of printable text, none of which begins
// or ends with a space.
func visible(s string) bool {
	for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		if line == "" || strings.TrimSpace(line) != line {
			return false
		}
	}
	return !strings.ContainsFunc(s, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) })
}

// writeJSON writes a tree as indented JSON, with its keys in their order.
func writeJSON(out *bytes.Buffer, n *yaml.Node) error {
	var flat bytes.Buffer
	if err := flatJSON(&flat, n); err != nil {
		return err
	}
	if err := json.Indent(out, flat.Bytes(), "", "  "); err != nil {
		return err
	}
	return out.WriteByte('\n')
}

func flatJSON(out *bytes.Buffer, n *yaml.Node) error {
	open, shut := byte('{'), byte('}')
	switch n.Kind { //nolint:exhaustive // document makes no other kinds
	case yaml.ScalarNode:
		return scalarJSON(out, n)
	case yaml.SequenceNode:
		open, shut = '[', ']'
	}
	out.WriteByte(open)
	for i, child := range n.Content {
		switch {
		case i > 0 && n.Kind == yaml.MappingNode && i%2 == 1:
			out.WriteByte(':')
		case i > 0:
			out.WriteByte(',')
		}
		if err := flatJSON(out, child); err != nil {
			return err
		}
	}
	out.WriteByte(shut)
	return nil
}

func scalarJSON(out *bytes.Buffer, n *yaml.Node) error {
	if n.Tag != tagString {
		out.WriteString(n.Value)
		return nil
	}
	raw, err := json.Marshal(n.Value)
	out.Write(raw)
	return err
}

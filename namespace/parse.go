package namespace

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parse turns the text of a file into one tree for each document. Text that
// is JSON throughout (one object or several, one after the other) is read as
// JSON, everything else as YAML. It reports whether all of it could be read.
func parse(f *File, r *report) (docs []*yaml.Node, complete bool) {
	fail := func(line, column int, text string) ([]*yaml.Node, bool) {
		r.add(Mistake{File: f.Name, Line: line, Column: column, Text: text})
		return nil, false
	}
	data := bytes.TrimPrefix(f.Data, []byte("\ufeff"))
	if len(data) > MaxFile {
		return fail(0, 0, "the file has "+strconv.Itoa(len(data))+" bytes, over the limit of "+strconv.Itoa(MaxFile)+"; spread its documents over several files")
	}
	if !utf8.Valid(data) {
		return fail(lineOfInvalid(data), 1, "the text is not UTF-8")
	}
	offset, err := findJSON(data)
	if err == nil {
		return parseJSON(data), true
	}
	if filepath.Ext(f.Name) == ".json" && !bytes.Contains(data, []byte("\n---")) && len(bytes.TrimSpace(data)) > 0 {
		before := data[:min(max(offset-1, 0), len(data))]
		return fail(bytes.Count(before, []byte("\n"))+1, len(before)-bytes.LastIndexByte(before, '\n'), "not valid JSON: "+err.Error())
	}
	return parseYAML(f.Name, data, r)
}

func lineOfInvalid(data []byte) int {
	line := 1
	for len(data) > 0 {
		c, size := utf8.DecodeRune(data)
		if c == utf8.RuneError && size == 1 {
			break
		}
		if c == '\n' {
			line++
		}
		data = data[size:]
	}
	return line
}

// parseYAML goes on behind the next "---" after text that is no YAML, so that
// one slip of the keyboard does not hide the mistakes of other documents.
func parseYAML(name string, data []byte, r *report) (docs []*yaml.Node, complete bool) {
	complete = true
	before := 0 // lines before data
	for {
		got, err := readYAML(data)
		last := 1
		if len(got) > 0 {
			last = lastLine(got[len(got)-1])
		}
		for _, doc := range got {
			shift(doc, before)
		}
		docs = append(docs, got...)
		if errors.Is(err, io.EOF) {
			return docs, complete
		}
		complete = false
		line, text := syntaxError(err)
		if line > 0 || len(got) == 0 { // else the next round begins with what is wrong
			r.add(Mistake{File: name, Line: before + max(line, 1), Column: 1, Text: text})
		}
		skipped, rest := nextDocument(data, max(line, last))
		if rest == nil {
			return docs, complete
		}
		before, data = before+skipped, rest
	}
}

// readYAML returns the documents up to the first error, which is io.EOF if
// all went well.
func readYAML(data []byte) (docs []*yaml.Node, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		doc := new(yaml.Node)
		if err := decoder.Decode(doc); err != nil {
			return docs, err
		}
		docs = append(docs, doc)
	}
}

func lastLine(n *yaml.Node) int {
	last := n.Line
	if len(n.Content) > 0 {
		last = max(last, lastLine(n.Content[len(n.Content)-1]))
	}
	return last
}

func shift(n *yaml.Node, lines int) {
	if lines == 0 {
		return
	}
	n.Line += lines
	for _, c := range n.Content {
		shift(c, lines)
	}
}

// nextDocument returns what begins with the first "---" line after the given
// line, and how many lines are before it; nil if there is none.
func nextDocument(data []byte, after int) (skipped int, rest []byte) {
	for line := 1; len(data) > 0; line++ {
		if line > after && bytes.HasPrefix(data, []byte("---")) {
			return line - 1, data
		}
		end := bytes.IndexByte(data, '\n')
		if end < 0 {
			return 0, nil
		}
		data = data[end+1:]
	}
	return 0, nil
}

var yamlError = regexp.MustCompile(`^yaml: (?:line (\d+)(?::|, column \d+:)? ?)?(.*)$`)

// fromZero matches the messages whose lines the YAML parser counts from 0: those
// of its grammar; it counts from 1 in those of its scanner.
var fromZero = regexp.MustCompile(`^did not find expected ('|key|node content|<)`)

// hints are what most often is behind a message of the YAML parser.
var hints = []struct{ start, hint string }{
	{"found character that cannot start any token", "YAML is indented with spaces, not tabs, and text that begins with @, ` or % stands in quotes"},
	{"mapping values are not allowed", "is a line indented too far, or does text with a colon need quotes?"},
	{"did not find expected key", "is a line indented differently from the ones around it?"},
	{"unknown anchor", "anchors and aliases are not taken; text that begins with * stands in quotes"},
	{"could not find expected ':'", "is there a colon and a space after the key?"},
}

// syntaxError returns what the YAML parser complained about; line is 0 if it
// did not say.
func syntaxError(err error) (line int, text string) {
	text = strings.ReplaceAll(err.Error(), "\n", " ")
	if m := yamlError.FindStringSubmatch(text); m != nil {
		line, _ = strconv.Atoi(m[1])
		text = m[2]
	}
	if line > 0 && fromZero.MatchString(text) {
		line++
	}
	for _, h := range hints {
		if strings.HasPrefix(text, h.start) {
			text += " (" + h.hint + ")"
		}
	}
	return line, "not valid YAML: " + text
}

// findJSON returns nil if data is nothing but JSON objects or arrays, or else
// why not, with the number of bytes up to there.
func findJSON(data []byte) (offset int, err error) {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' && trimmed[0] != '[' {
		return 0, errors.New("an object begins with {")
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	for {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		var syntax *json.SyntaxError
		switch {
		case errors.Is(err, io.EOF):
			return 0, nil
		case errors.As(err, &syntax):
			return int(syntax.Offset), err
		case err != nil: // the text ends too early
			return len(data), err
		}
	}
}

// parseJSON builds the trees that YAML would have. data has passed findJSON.
func parseJSON(data []byte) []*yaml.Node {
	p := &jsonParser{data: data, decoder: json.NewDecoder(bytes.NewReader(data)), lines: []int{0}}
	p.decoder.UseNumber()
	for i, c := range data {
		if c == '\n' {
			p.lines = append(p.lines, i+1)
		}
	}
	var docs []*yaml.Node
	for {
		n := p.value()
		if n == nil {
			return docs
		}
		docs = append(docs, &yaml.Node{Kind: yaml.DocumentNode, Line: n.Line, Column: n.Column, Content: []*yaml.Node{n}})
	}
}

type jsonParser struct {
	data    []byte
	decoder *json.Decoder
	lines   []int // where each line begins
}

// value returns the next value, nil at the end of the text or of the object
// or array around it.
func (p *jsonParser) value() *yaml.Node {
	at := int(p.decoder.InputOffset())
	for at < len(p.data) && strings.IndexByte(" \t\r\n,:", p.data[at]) >= 0 {
		at++
	}
	token, err := p.decoder.Token()
	if err != nil {
		return nil
	}
	line, _ := slices.BinarySearch(p.lines, at+1)
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: line, Column: at - p.lines[line-1] + 1}
	switch t := token.(type) {
	case json.Delim:
		if t == '}' || t == ']' {
			return nil
		}
		p.collect(n, t)
	case string:
		n.Tag, n.Value, n.Style = tagString, t, yaml.DoubleQuotedStyle
	case json.Number:
		n.Tag, n.Value, n.Style = tagFloat, t.String(), yaml.DoubleQuotedStyle
		if !strings.ContainsAny(n.Value, ".eE") {
			n.Tag = tagInt
		}
	case bool:
		n.Tag, n.Value, n.Style = tagBool, strconv.FormatBool(t), yaml.DoubleQuotedStyle
	default:
		n.Tag, n.Style = tagNull, yaml.DoubleQuotedStyle
	}
	return n
}

func (p *jsonParser) collect(n *yaml.Node, open json.Delim) {
	n.Kind = yaml.MappingNode
	if open == '[' {
		n.Kind = yaml.SequenceNode
	}
	for {
		child := p.value()
		if child == nil {
			return
		}
		n.Content = append(n.Content, child)
	}
}

package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/prismgw/prism/client"
)

// A result is one thing that a verb prints. Its fields are what json and yaml
// show.
type result interface {
	header() []string // of a table
	cells() []string  // of its row
	raw() []byte      // without decoration, with the end of the line if it needs one
}

// A printer writes results as they come, in the form that the user wants.
type printer struct {
	out   *bufio.Writer
	form  string
	list  bool // json: an array; otherwise one object
	count int
	table table
}

// newPrinter returns a printer of a list, or of one result.
func newPrinter(w io.Writer, form string, list bool, header []string) *printer {
	p := &printer{out: bufio.NewWriterSize(w, 64<<10), form: form, list: list}
	p.table = table{out: p.out, rows: [][]string{header}}
	return p
}

// printOne prints a single result.
func printOne(w io.Writer, form string, r result) error {
	p := newPrinter(w, form, false, r.header())
	if err := p.add(r); err != nil {
		return err
	}
	return p.close()
}

func (p *printer) add(r result) error {
	p.count++
	switch p.form {
	case "json":
		return p.addJSON(r)
	case "yaml":
		return p.addYAML(r)
	case "raw":
		_, err := p.out.Write(r.raw())
		return err
	}
	return p.table.add(r.cells())
}

func (p *printer) addJSON(r result) error {
	if p.list {
		sep := ",\n"
		if p.count == 1 {
			sep = "[\n"
		}
		if _, err := p.out.WriteString(sep); err != nil {
			return err
		}
	}
	data, err := plainJSON(r)
	if err == nil {
		_, err = p.out.Write(data)
	}
	return err
}

func (p *printer) addYAML(r result) error {
	var v any = r
	if p.list {
		v = []result{r}
	}
	data, err := yaml.Marshal(v)
	if err == nil {
		_, err = p.out.Write(data)
	}
	return err
}

// close ends the list and writes what is left.
func (p *printer) close() error {
	end := ""
	switch {
	case p.form == "table":
		if err := p.table.flush(); err != nil {
			return err
		}
	case p.form == "json" && p.list && p.count == 0:
		end = "[]\n"
	case p.form == "json" && p.list:
		end = "\n]\n"
	case p.form == "json":
		end = "\n"
	case p.form == "yaml" && p.list && p.count == 0:
		end = "[]\n"
	}
	if _, err := p.out.WriteString(end); err != nil {
		return err
	}
	return p.out.Flush()
}

// plainJSON is JSON without escapes for HTML, on one line.
func plainJSON(v any) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(b.String(), "\n")), nil
}

// A table aligns its columns. It holds back as many rows as a screen or two;
// columns that grow later grow from there on.
type table struct {
	out    io.Writer
	rows   [][]string
	widths []int
}

const rowsHeld = 256

func (t *table) add(cells []string) error {
	t.rows = append(t.rows, cells)
	if len(t.rows) < rowsHeld {
		return nil
	}
	return t.flush()
}

func (t *table) flush() error {
	for _, row := range t.rows {
		for i, text := range row {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(text))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, text := range row {
			fmt.Fprintf(&line, "%-*s  ", t.widths[i], text)
		}
		if _, err := fmt.Fprintln(t.out, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	t.rows = t.rows[:0]
	return nil
}

// widest is how many characters of a key or value a table shows.
const widest = 72

// cell makes any text fit one line of a table and harmless to a terminal.
func cell(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) || !utf8.ValidString(s) || s != strings.TrimSpace(s) {
		s = strconv.Quote(s)
	}
	if utf8.RuneCountInString(s) > widest {
		s = string([]rune(s)[:widest-1]) + "…"
	}
	return s
}

// An entryRow is a key with what is known about it.
type entryRow struct {
	Key         string     `json:"key" yaml:"key"`
	Value       *string    `json:"value,omitempty" yaml:"value,omitempty"`               // if it is UTF-8
	ValueBase64 *string    `json:"value_base64,omitempty" yaml:"value_base64,omitempty"` // if it is not
	Version     string     `json:"version,omitempty" yaml:"version,omitempty"`
	Expires     *time.Time `json:"expires_at,omitempty" yaml:"expires_at,omitempty"`

	value []byte
	plain []byte // raw
	short bool   // a table shows the key alone
}

func newEntryRow(e *client.Entry) entryRow {
	r := entryRow{Key: e.Key, Version: e.Version, value: e.Value}
	if utf8.Valid(e.Value) {
		text := string(e.Value)
		r.Value = &text
	} else {
		text := base64.StdEncoding.EncodeToString(e.Value)
		r.ValueBase64 = &text
	}
	if !e.Expires.IsZero() {
		at := e.Expires.UTC()
		r.Expires = &at
	}
	return r
}

func (r entryRow) header() []string {
	if r.short {
		return []string{"KEY"}
	}
	return []string{"KEY", "VERSION", "EXPIRES", "BYTES", "VALUE"}
}

func (r entryRow) cells() []string {
	if r.short {
		return []string{cell(r.Key)}
	}
	expires := "never"
	if r.Expires != nil {
		expires = r.Expires.Format(time.RFC3339)
	}
	return []string{cell(r.Key), r.Version, expires, strconv.Itoa(len(r.value)), cell(string(r.value))}
}

func (r entryRow) raw() []byte { return r.plain }

// isTerminal reports whether a person looks at w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

// The formats of files with many keys.
const (
	formatJSONL = "jsonl" // {"key": …, "value": … | "value_base64": …, "expires_at": …}
	formatCSV   = "csv"   // quoted as in RFC 4180; key and value are columns
	formatTSV   = "tsv"   // the same with tabs
	formatLines = "lines" // a record is a line as it is; nothing is quoted
)

var formats = []string{formatJSONL, formatCSV, formatTSV, formatLines}

// What the value of a record is, beside the number of a column.
const (
	wholeLine = "line"
	theRest   = "rest"
)

// A layout says how records are written.
type layout struct {
	format      string
	delimiter   string // empty: the format's own
	keyColumn   int    // from 1
	valueColumn string // a number from 1, wholeLine or theRest; empty: the format's own
	skip        int    // records to leave out at the beginning
}

// check fills in what the format decides.
func (l *layout) check() error {
	own, value := "", ""
	switch l.format {
	case formatJSONL:
		if l.delimiter != "" || l.valueColumn != "" || l.keyColumn != 1 {
			return usage(nil, "--delimiter, --key-column and --value are for --format csv, tsv and lines")
		}
	case formatCSV:
		own, value = ",", "2"
	case formatTSV:
		own, value = "\t", "2"
	case formatLines:
		own, value = "\t", wholeLine
	default:
		return usage(nil, "--format is one of %s, not %q", strings.Join(formats, ", "), l.format)
	}
	l.delimiter = cmp.Or(strings.ReplaceAll(l.delimiter, `\t`, "\t"), own)
	l.valueColumn = cmp.Or(l.valueColumn, value)
	if strings.ContainsAny(l.delimiter, "\r\n\"") {
		return usage(nil, "--delimiter cannot hold a line break or a quote")
	}
	if l.keyColumn < 1 || l.skip < 0 {
		return usage(nil, "--key-column counts from 1, --skip from 0")
	}
	if n, err := strconv.Atoi(l.valueColumn); l.format != formatJSONL && l.valueColumn != wholeLine && l.valueColumn != theRest && (err != nil || n < 1) {
		return usage(nil, "--value is the number of a column from 1, %s or %s", wholeLine, theRest)
	}
	return nil
}

// A record is one key to store.
type record struct {
	line    int // where it begins
	key     string
	value   []byte
	expires time.Time // zero: never
}

// A recordError is a record that cannot be read; those after it can.
type recordError struct {
	line int
	err  error
}

func (e *recordError) Error() string { return fmt.Sprintf("line %d: %v", e.line, e.err) }
func (e *recordError) Unwrap() error { return e.err }

func malformed(line int, format string, args ...any) error {
	return &recordError{line, errs.New(errs.InvalidField, format, args...)}
}

// maxRecord bounds one record of a file, in bytes: a value of 4 MiB in base64,
// with room.
const maxRecord = 16 << 20

// A recordReader reads the records of a file one after the other.
type recordReader struct {
	layout
	in   *bufio.Reader
	line int // of the line that comes next, from 1
}

func newRecordReader(in io.Reader, l layout) *recordReader {
	return &recordReader{layout: l, in: bufio.NewReaderSize(in, 256<<10), line: 1}
}

// next returns the next record, io.EOF after the last one; blank lines are
// none. After a recordError it can be called again.
func (r *recordReader) next() (record, error) {
	for {
		text, line, err := r.text()
		switch {
		case err != nil:
			return record{}, err
		case blank(text, r.format):
			continue
		case r.skip > 0:
			r.skip--
			continue
		case r.format == formatJSONL:
			return parseJSON(text, line)
		}
		return r.columns(text, line)
	}
}

// text returns the bytes of the next record, without the end of its line. They
// are the caller's. In quoted formats it goes on while a quote is open.
func (r *recordReader) text() (text []byte, line int, err error) {
	line = r.line
	for quotes := 0; ; {
		part, err := r.readLine()
		text = append(text, part...)
		if r.quoted() {
			quotes += bytes.Count(part, []byte{'"'})
		}
		open := quotes%2 == 1
		switch ended := errors.Is(err, io.EOF); {
		case err != nil && !ended:
			return nil, line, err
		case ended && len(text) == 0:
			return nil, line, io.EOF
		case ended && open:
			return nil, line, malformed(line, "a quote that opens here is not closed")
		case len(text) > maxRecord:
			return nil, line, errs.New(errs.PayloadTooLarge, "line %d: a record is over %d bytes; is a quote not closed", line, maxRecord)
		case ended || !open:
			return r.trim(text), line, nil
		}
	}
}

// blank reports whether a line is none. White space is, in columns, a key.
func blank(text []byte, format string) bool {
	if format == formatJSONL {
		text = bytes.TrimSpace(text)
	}
	return len(text) == 0 || string(text) == "\r"
}

// readLine returns the next line with its end.
func (r *recordReader) readLine() ([]byte, error) {
	var all []byte
	for {
		part, err := r.in.ReadSlice('\n')
		all = append(all, part...)
		if errors.Is(err, bufio.ErrBufferFull) && len(all) <= maxRecord {
			continue
		}
		if err == nil {
			r.line++
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil // too long; the caller says so
		}
		return all, err
	}
}

func (r *recordReader) quoted() bool { return r.format == formatCSV || r.format == formatTSV }

// trim cuts the end of the line: of lines only the \n, since a \r before it may
// well be meant.
func (r *recordReader) trim(text []byte) []byte {
	text = bytes.TrimSuffix(text, []byte("\n"))
	if r.format != formatLines {
		text = bytes.TrimSuffix(text, []byte("\r"))
	}
	return text
}

// columns makes a record of a line with columns.
func (r *recordReader) columns(text []byte, line int) (record, error) {
	fields, err := r.split(text, line)
	if err != nil {
		return record{}, err
	}
	if r.keyColumn > len(fields) {
		return record{}, malformed(line, "there is no column %d for the key, only %d", r.keyColumn, len(fields))
	}
	rec := record{line: line, key: string(fields[r.keyColumn-1].value)}
	switch r.valueColumn {
	case wholeLine:
		rec.value = text
	case theRest:
		var rest [][]byte
		for i, f := range fields {
			if i != r.keyColumn-1 {
				rest = append(rest, f.raw)
			}
		}
		rec.value = bytes.Join(rest, []byte(r.delimiter))
	default:
		n, _ := strconv.Atoi(r.valueColumn) // checked
		if n > len(fields) {
			return record{}, malformed(line, "there is no column %d for the value, only %d", n, len(fields))
		}
		rec.value = fields[n-1].value
	}
	return rec, nil
}

// A field is one column: as it stands there, and without its quotes.
type field struct{ raw, value []byte }

func (r *recordReader) split(text []byte, line int) ([]field, error) {
	var fields []field
	delimiter := []byte(r.delimiter)
	for {
		var f field
		if r.quoted() && bytes.HasPrefix(text, []byte{'"'}) {
			n := quoteEnd(text)
			f.raw = text[:n]
			f.value = bytes.ReplaceAll(text[1:n-1], []byte(`""`), []byte{'"'})
			if n < len(text) && !bytes.HasPrefix(text[n:], delimiter) {
				return nil, malformed(line, "column %d goes on after its closing quote; write a quote inside of it twice", len(fields)+1)
			}
		} else {
			raw, _, _ := bytes.Cut(text, delimiter)
			if r.quoted() && bytes.ContainsRune(raw, '"') {
				return nil, malformed(line, "column %d has a quote in the middle; put the whole column in quotes and write that one twice", len(fields)+1)
			}
			f.raw, f.value = raw, raw
		}
		fields = append(fields, f)
		text = text[len(f.raw):]
		if len(text) == 0 {
			return fields, nil
		}
		text = text[len(delimiter):]
	}
}

// quoteEnd returns where the quoted field at the start of text ends. The
// quotes in text are even, so there is an end.
func quoteEnd(text []byte) int {
	for i := 1; i < len(text); i++ {
		if text[i] != '"' {
			continue
		}
		if i+1 < len(text) && text[i+1] == '"' {
			i++
			continue
		}
		return i + 1
	}
	return len(text)
}

// jsonRecord is a line of jsonl.
type jsonRecord struct {
	Key         *string    `json:"key"`
	Value       *string    `json:"value,omitempty"`
	ValueBase64 *string    `json:"value_base64,omitempty"`
	Expires     *time.Time `json:"expires_at,omitempty"`
}

func parseJSON(text []byte, line int) (record, error) {
	var j jsonRecord
	if !utf8.Valid(text) {
		return record{}, malformed(line, "the line is not UTF-8; write binary values as value_base64")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return record{}, malformed(line, "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return record{}, malformed(line, "there is more than one object on the line")
	}
	if j.Key == nil || (j.Value == nil) == (j.ValueBase64 == nil) {
		return record{}, malformed(line, `a record has a "key" and either a "value" or a "value_base64"`)
	}
	if brokenEscape(text, *j.Key, j.Value) {
		return record{}, malformed(line, `half of a surrogate pair (\ud800 to \udfff) is no character; write binary values as value_base64`)
	}
	rec := record{line: line, key: *j.Key}
	if j.Expires != nil {
		rec.expires = *j.Expires
	}
	if j.Value != nil {
		rec.value = []byte(*j.Value)
		return rec, nil
	}
	var err error
	if rec.value, err = base64.StdEncoding.DecodeString(*j.ValueBase64); err != nil {
		return record{}, malformed(line, "value_base64 is no base64")
	}
	return rec, nil
}

// brokenEscape reports whether decoding has put in a replacement character
// that does not stand in text, as encoding/json does for half a surrogate pair.
func brokenEscape(text []byte, key string, value *string) bool {
	const replacement = string(utf8.RuneError)
	have := strings.Count(key, replacement)
	if value != nil {
		have += strings.Count(*value, replacement)
	}
	return have > bytes.Count(text, []byte(replacement))+bytes.Count(bytes.ToLower(text), []byte(`\ufffd`))
}

// A recordWriter writes records so that a recordReader reads the same ones.
type recordWriter struct {
	layout
	out *bufio.Writer
}

func newRecordWriter(out io.Writer, l layout) *recordWriter {
	return &recordWriter{l, bufio.NewWriterSize(out, 256<<10)}
}

// write writes one entry; the last ones only with flush.
func (w *recordWriter) write(e *client.Entry) error {
	var line []byte
	switch w.format {
	case formatJSONL:
		row := newEntryRow(e)
		var err error
		if line, err = plainJSON(jsonRecord{&row.Key, row.Value, row.ValueBase64, row.Expires}); err != nil {
			return err
		}
	case formatLines:
		if bytes.IndexByte(e.Value, '\n') >= 0 {
			return errs.New(errs.InvalidField, "the value of %s has several lines; export it with --format jsonl or csv", cell(e.Key))
		}
		line = e.Value
	default:
		line = append(w.quote([]byte(e.Key)), w.delimiter...)
		line = append(line, w.quote(e.Value)...)
	}
	if _, err := w.out.Write(line); err != nil {
		return err
	}
	return w.out.WriteByte('\n')
}

func (w *recordWriter) quote(field []byte) []byte {
	if !bytes.ContainsAny(field, "\"\r\n") && !bytes.Contains(field, []byte(w.delimiter)) {
		return bytes.Clone(field)
	}
	quoted := append([]byte{'"'}, bytes.ReplaceAll(field, []byte{'"'}, []byte(`""`))...)
	return append(quoted, '"')
}

package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/client"
)

func checked(t testing.TB, l layout) layout {
	t.Helper()
	if l.keyColumn == 0 {
		l.keyColumn = 1
	}
	if err := l.check(); err != nil {
		t.Fatal(err)
	}
	return l
}

// readAll returns the records, and the lines of those that could not be read.
func readAll(t testing.TB, l layout, text string) (records []record, bad []int) {
	t.Helper()
	r := newRecordReader(strings.NewReader(text), l)
	for {
		rec, err := r.next()
		var wrong *recordError
		switch {
		case errors.Is(err, io.EOF):
			return records, bad
		case errors.As(err, &wrong):
			bad = append(bad, wrong.line)
		case err != nil:
			t.Fatal(err)
		default:
			records = append(records, rec)
		}
	}
}

func TestColumns(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		layout layout
		text   string
		want   string // key=value of each record, with | between
		bad    int
	}{
		{"lines", layout{format: formatLines, delimiter: ";"}, "a;1;x\nb;2\n", "a=a;1;x|b=b;2", 0},
		{"last line without an end", layout{format: formatLines, delimiter: ";"}, "a;1\nb;2", "a=a;1|b=b;2", 0},
		{"the return before the end is meant", layout{format: formatLines, delimiter: ";"}, "a;1\r\n", "a=a;1\r", 0},
		{"quotes mean nothing in lines", layout{format: formatLines, delimiter: ";"}, "\"a;1\nb\";2\n", "\"a=\"a;1|b\"=b\";2", 0},
		{"rest", layout{format: formatLines, delimiter: ";", keyColumn: 2, valueColumn: theRest}, "x;a;y\n", "a=x;y", 0},
		{"column", layout{format: formatLines, delimiter: "::", keyColumn: 2, valueColumn: "1"}, "x::a\n", "a=x", 0},
		{"tab by its name", layout{format: formatLines, delimiter: `\t`, valueColumn: "2"}, "a\t1\n", "a=1", 0},
		{"empty column at the end", layout{format: formatCSV}, "a,\n", "a=", 0},
		{"too few columns", layout{format: formatCSV}, "a\nb,1\n", "b=1", 1},
		{"no column for the key", layout{format: formatCSV, keyColumn: 3}, "a,1\n", "", 1},
		{"quoted", layout{format: formatCSV}, "\"a,b\",\"say \"\"hi\"\"\"\r\n", "a,b=say \"hi\"", 0},
		{"several lines", layout{format: formatCSV}, "a,\"1\r\n2\n\"\nb,3\n", "a=1\r\n2\n|b=3", 0},
		{"quoted and empty", layout{format: formatCSV}, "a,\"\"\n", "a=", 0},
		{"quote in the middle", layout{format: formatCSV}, "a,x\"y\"z\nb,1\n", "b=1", 1},
		{"text after the quote", layout{format: formatCSV}, "a,\"x\"y\nb,1\n", "b=1", 1},
		{"open quote", layout{format: formatCSV}, "a,1\nb,\"x\nc,3\n", "a=1", 1},
		{"whole line", layout{format: formatCSV, valueColumn: wholeLine}, "a,\"1\"\n", "a=a,\"1\"", 0},
		{"skip", layout{format: formatCSV, skip: 1}, "\"key\nhere\",value\na,1\n", "a=1", 0},
		{"blank lines", layout{format: formatTSV}, "\na\t1\n\n\nb\t2\n", "a=1|b=2", 0},
		{"nothing", layout{format: formatTSV}, "", "", 0},
	} {
		records, bad := readAll(t, checked(t, tt.layout), tt.text)
		got := make([]string, 0, len(records))
		for _, r := range records {
			got = append(got, r.key+"="+string(r.value))
		}
		if s := strings.Join(got, "|"); s != tt.want || len(bad) != tt.bad {
			t.Errorf("%s: got %q and %d bad ones, want %q and %d", tt.name, s, len(bad), tt.want, tt.bad)
		}
	}
}

func TestJSONL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line, key, value, wrong string
	}{
		{line: `{"key":"a","value":"1"}`, key: "a", value: "1"},
		{line: ` {"value_base64":"AP8=","key":"a"} `, key: "a", value: "\x00\xff"},
		{line: `{"key":"a","value":"\ud83e\udd84 \ufffd <&>"}`, key: "a", value: "🦄 \ufffd <&>"},
		{line: "{\"key\":\"a\",\"value\":\"\ufffd\"}", key: "a", value: "\ufffd"},
		{line: `{"key":"a","value":"\ud83e"}`, wrong: "surrogate"},
		{line: "{\"key\":\"a\",\"value\":\"\xff\"}", wrong: "not UTF-8"},
		{line: `{"key":"a","value":"1","value_base64":""}`, wrong: "either"},
		{line: `{"key":"a"}`, wrong: "either"},
		{line: `{"value":"a"}`, wrong: "either"},
		{line: `{"key":"a","value":1}`, wrong: "cannot unmarshal"},
		{line: `{"key":"a","value":"1","ttl":3}`, wrong: `unknown field "ttl"`},
		{line: `{"key":"a","value":"1"} {}`, wrong: "more than one"},
		{line: `{"key":"a","value_base64":"?"}`, wrong: "base64"},
		{line: `{"key":"a"`, wrong: "EOF"},
	} {
		rec, err := parseJSON([]byte(tt.line), 1)
		switch {
		case tt.wrong != "":
			if err == nil || !strings.Contains(err.Error(), tt.wrong) {
				t.Errorf("%s: error %v, want %q", tt.line, err, tt.wrong)
			}
		case err != nil || rec.key != tt.key || string(rec.value) != tt.value:
			t.Errorf("%s: got %q=%q, %v", tt.line, rec.key, rec.value, err)
		}
	}
}

func TestRecordsOverTheLimit(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"one line":   strings.Repeat("x", maxRecord+1) + "\n",
		"many lines": "a,\"" + strings.Repeat(strings.Repeat("x", 1023)+"\n", maxRecord/1024+1),
	} {
		_, err := newRecordReader(strings.NewReader(text), checked(t, layout{format: formatCSV})).next()
		var bad *recordError
		if err == nil || errors.As(err, &bad) || !strings.Contains(err.Error(), "is a quote not closed") {
			t.Errorf("%s: %.80v", name, err)
		}
	}
}

// What is written is read again, byte for byte, whatever it is.
func FuzzRoundTrip(f *testing.F) {
	f.Add("key", []byte("value"), "a", []byte{0xff, 0, '\n'})
	f.Add("a,b\t\"c\"", []byte("\r\n\"\"\r"), "\n", []byte(" , \t "))
	f.Add(" ", []byte{}, "\t", []byte{})
	f.Add("é\u2028<&>", []byte("\ufffd"), "-", []byte{})
	f.Fuzz(func(t *testing.T, key1 string, value1 []byte, key2 string, value2 []byte) {
		at := time.Date(2030, 1, 2, 3, 4, 5, 6000000, time.UTC)
		entries := []client.Entry{{Key: key1, Value: value1, Expires: at}, {Key: key2, Value: value2}}
		for _, e := range entries {
			if strings.ToValidUTF8(e.Key, "") != e.Key || e.Key == "" {
				t.Skip("no key")
			}
		}
		for _, format := range []string{formatJSONL, formatCSV, formatTSV} {
			l := checked(t, layout{format: format})
			var file bytes.Buffer
			w := newRecordWriter(&file, l)
			for i := range entries {
				if err := w.write(&entries[i]); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.out.Flush(); err != nil {
				t.Fatal(err)
			}
			records, bad := readAll(t, l, file.String())
			if len(records) != len(entries) || len(bad) > 0 {
				t.Fatalf("%s: %d records and bad ones %v of %q", format, len(records), bad, file.String())
			}
			for i, r := range records {
				if r.key != entries[i].Key || !bytes.Equal(r.value, entries[i].Value) {
					t.Errorf("%s: %q=%q came back as %q=%q", format, entries[i].Key, entries[i].Value, r.key, r.value)
				}
				if format == formatJSONL && !r.expires.Equal(entries[i].Expires) {
					t.Errorf("expiry %v came back as %v", entries[i].Expires, r.expires)
				}
			}
		}
	})
}

func TestSeen(t *testing.T) {
	t.Parallel()
	var once seen
	for _, key := range []string{"c", "a", "b"} {
		if once.before(key) {
			t.Errorf("%s was not there before", key)
		}
	}
	for _, key := range []string{"a", "b", "c"} {
		if !once.before(key) {
			t.Errorf("%s was there before", key)
		}
	}
	var ordered seen
	for i := range 2 * inOrder {
		if ordered.before(strings.Repeat("x", i+1)) {
			t.Fatalf("key %d was not there before", i)
		}
	}
	if ordered.keys != nil {
		t.Error("keys of a scan in order are remembered")
	}
}

package sqlite

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// layout names a table that was there before Prism, and two of its columns.
type layout struct {
	Table string `json:"table"`
	Key   string `json:"key"`
	Value string `json:"value"`
}

const maxIdentifier = 128

func parseLayout(raw json.RawMessage) (layout, error) {
	var l layout
	if err := driver.DecodeStrict(raw, &l); err != nil {
		return l, errs.Invalid(errs.Field{Path: "layout", Text: err.Error() + `; write {"table": "carts", "key": "id", "value": "doc"}`})
	}
	var bad []errs.Field
	report := func(path, text string) { bad = append(bad, errs.Field{Path: path, Text: text}) }
	for _, f := range []struct{ path, name string }{
		{"layout.table", l.Table}, {"layout.key", l.Key}, {"layout.value", l.Value},
	} {
		switch {
		case f.name == "":
			report(f.path, "is missing")
		case len(f.name) > maxIdentifier || !utf8.ValidString(f.name) || strings.ContainsRune(f.name, 0):
			report(f.path, "is no name: at most 128 bytes of UTF-8 without NUL")
		}
	}
	if table := l.folded(); strings.HasPrefix(table, "prism_") || strings.HasPrefix(table, "sqlite_") {
		report("layout.table", "is a table of Prism or SQLite itself")
	}
	if l.Key != "" && fold(l.Key) == fold(l.Value) {
		report("layout.value", "is the same column as layout.key")
	}
	if bad != nil {
		return l, errs.Invalid(bad...)
	}
	return l, nil
}

// folded returns the table's name as SQLite compares it.
func (l layout) folded() string { return fold(l.Table) }

// fold lowers A to Z and nothing else, like SQLite.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, name)
}

// quote makes a name an identifier of SQL.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

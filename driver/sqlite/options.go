package sqlite

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// The values of option synchronous.
const (
	syncFull   = "full"
	syncNormal = "normal"
)

const (
	defaultMaxValue = 4 << 20
	leastMaxValue   = 64
	mostMaxValue    = 512 << 20 // SQLite itself ends at 1,000,000,000 bytes of a row

	defaultBusy = time.Second
	mostBusy    = time.Minute

	defaultReaders = 8
	mostReaders    = 128
)

type settings struct {
	fileSettings
	name     string // of the Backend document
	path     string // absolute
	maxValue int
	now      func() time.Time
	log      *slog.Logger
}

// fileSettings are those that all users of an open file have in common.
type fileSettings struct {
	synchronous string
	busy        time.Duration
	readers     int
}

type options struct {
	Synchronous string          `json:"synchronous"`
	BusyTimeout driver.Duration `json:"busy_timeout"`
	MaxValue    int             `json:"max_value"`
	Readers     int             `json:"readers"`
}

// parse reads the whole configuration and reports every mistake in it.
func parse(c *driver.Config) (*settings, error) {
	var bad []errs.Field
	report := func(path, format string, args ...any) {
		bad = append(bad, errs.Field{Path: path, Text: fmt.Sprintf(format, args...)})
	}
	path, err := parseURL(c.URL, c.Dir)
	if err != nil {
		report("url", "%v", err)
	}
	o := options{syncFull, driver.Duration(defaultBusy), defaultMaxValue, defaultReaders}
	if err := driver.DecodeStrict(c.Options, &o); err != nil {
		report("options", "%v", err)
	} else {
		o.check(report)
	}
	if c.TLS != nil {
		report("tls", "a file has no connections to encrypt; leave it out")
	}
	if c.Credentials != nil {
		report("credentials", "a file asks nobody for a password; leave them out and use the permissions of the file")
	}
	if err := driver.DecodeStrict(c.Asserts, &struct{}{}); err != nil {
		report("asserts", "%v; there is nothing to vouch for, everything is checked", err)
	}
	if bad != nil {
		return nil, errs.Invalid(bad...)
	}
	return &settings{
		fileSettings: fileSettings{o.Synchronous, time.Duration(o.BusyTimeout), o.Readers},
		name:         c.Name, path: path, maxValue: o.MaxValue, now: c.Clock(), log: c.Logger(),
	}, nil
}

func (o *options) check(report func(path, format string, args ...any)) {
	if _, ok := acks[o.Synchronous]; !ok {
		report("options.synchronous", "%q is neither full nor normal", o.Synchronous)
	}
	if d := time.Duration(o.BusyTimeout); d < 0 || d > mostBusy {
		report("options.busy_timeout", "%v is not between 0s and %v", d, mostBusy)
	}
	if o.MaxValue < leastMaxValue || o.MaxValue > mostMaxValue {
		report("options.max_value", "%d is not between %d and %d bytes", o.MaxValue, leastMaxValue, mostMaxValue)
	}
	if o.Readers < 1 || o.Readers > mostReaders {
		report("options.readers", "%d is not between 1 and %d", o.Readers, mostReaders)
	}
}

// parseURL returns the absolute path of the file.
func parseURL(text, dir string) (string, error) {
	switch {
	case text == "sqlite::memory:":
		return "", fmt.Errorf("%q keeps nothing; use driver memory for data that may be lost", text)
	case strings.HasSuffix(text, "/"):
		return "", fmt.Errorf("%q names no file; write sqlite:path or sqlite:///absolute/path", text)
	}
	return driver.LocalPath(text, "sqlite", dir)
}

package sqlite

import (
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
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
	const advice = "write sqlite:path or sqlite:///absolute/path"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "sqlite":
		return "", fmt.Errorf("%q is not of this driver; %s", text, advice)
	case u.Host != "" || u.User != nil:
		return "", fmt.Errorf("%q names a host; %s", text, advice)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("%q has a query or a fragment; settings are options, and ? and # of a path are written %%3F and %%23", text)
	}
	path := u.Path
	if u.Opaque != "" {
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return "", fmt.Errorf("%q has a wrong %% escape", text)
		}
	}
	switch {
	case path == ":memory:":
		return "", fmt.Errorf("%q keeps nothing; use driver memory for data that may be lost", text)
	case path == "" || strings.HasSuffix(path, "/"):
		return "", fmt.Errorf("%q names no file; %s", text, advice)
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("the path in %q has a NUL", text)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return filepath.Abs(path)
}

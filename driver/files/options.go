package files

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

type settings struct {
	name      string // of the Backend document
	path      string // absolute
	sync      string
	maxObject int64
	now       func() time.Time
}

type options struct {
	Sync      string `json:"sync"`
	MaxObject int64  `json:"max_object"`
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
	o := options{syncAlways, driver.MaxBlob}
	if err := driver.DecodeStrict(c.Options, &o); err != nil {
		report("options", "%v", err)
	} else {
		o.check(report)
	}
	if c.TLS != nil {
		report("tls", "a folder has no connections to encrypt; leave it out")
	}
	if c.Credentials != nil {
		report("credentials", "a folder asks nobody for a password; leave them out and use its permissions")
	}
	if err := driver.DecodeStrict(c.Asserts, &struct{}{}); err != nil {
		report("asserts", "%v; there is nothing to vouch for, everything is checked", err)
	}
	if bad != nil {
		return nil, errs.Invalid(bad...)
	}
	return &settings{name: c.Name, path: path, sync: o.Sync, maxObject: o.MaxObject, now: c.Clock()}, nil
}

func (o *options) check(report func(path, format string, args ...any)) {
	if _, ok := acks[o.Sync]; !ok {
		report("options.sync", "%q is neither always nor never", o.Sync)
	}
	if o.MaxObject < 1 || o.MaxObject > driver.MaxBlob {
		report("options.max_object", "%d is not between 1 and %d bytes", o.MaxObject, int64(driver.MaxBlob))
	}
}

// parseURL returns the absolute path of the folder.
func parseURL(text, dir string) (string, error) {
	const advice = "write file:path or file:///absolute/path"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "file":
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
	case path == "":
		return "", fmt.Errorf("%q names no folder; %s", text, advice)
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("the path in %q has a NUL", text)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return filepath.Abs(path)
}

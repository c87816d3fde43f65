package files

import (
	"fmt"
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
	path, err := driver.LocalPath(c.URL, "file", c.Dir)
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

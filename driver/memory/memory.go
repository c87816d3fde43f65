// Package memory keeps keys, values, objects, messages and tasks in the memory of this
// process. It is the reference implementation of the primitives, what tests use
// instead of a fake, and a real store for data that may be lost. Nothing is
// written anywhere.
//
// Its url is "memory:" for data of its own, or "memory://name" for data that
// all connections with that name share, as long as one of them is open.
package memory

import (
	"crypto/rand"
	"encoding/base32"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

var ack = driver.Ack{
	Settings: "default",
	Why:      "everything is in the memory of the process and ends with it",
}

// Driver returns the technology. Data of one name is shared by the connections
// that one returned Driver opened.
func Driver() driver.Driver {
	named := &names{open: make(map[string]*data)}
	return driver.Driver{
		Name:    "memory",
		Summary: "in the memory of the process, lost with it",
		Schemes: []string{"memory"},
		Acks:    []driver.Ack{ack},
		Open: func(c driver.Config) (driver.Conn, error) {
			s, err := parse(&c)
			if err != nil {
				return nil, err
			}
			return &conn{data: named.take(s.name, c.Clock()), names: named, settings: s, log: c.Logger(), ended: make(chan struct{})}, nil
		},
	}
}

const (
	defaultMaxValue = 4 << 20
	leastMaxValue   = 64
	mostMaxValue    = 1 << 30

	defaultMaxObject = 64 << 20
)

type settings struct {
	name      string
	maxValue  int
	maxObject int64
}

// parse reads the whole configuration and reports every mistake in it.
func parse(c *driver.Config) (settings, error) {
	var bad []errs.Field
	report := func(path, text string) { bad = append(bad, errs.Field{Path: path, Text: text}) }

	name, ok := parseURL(c.URL)
	if !ok {
		report("url", fmt.Sprintf("%q is not of this driver; write memory: or memory://name", c.URL))
	}
	options := struct {
		MaxValue  int   `json:"max_value"`
		MaxObject int64 `json:"max_object"`
	}{defaultMaxValue, defaultMaxObject}
	if err := driver.DecodeStrict(c.Options, &options); err != nil {
		report("options", err.Error())
	} else {
		if options.MaxValue < leastMaxValue || options.MaxValue > mostMaxValue {
			report("options.max_value", fmt.Sprintf("%d is not between %d and %d bytes", options.MaxValue, leastMaxValue, mostMaxValue))
		}
		if options.MaxObject < 1 || options.MaxObject > driver.MaxBlob {
			report("options.max_object", fmt.Sprintf("%d is not between 1 and %d bytes", options.MaxObject, int64(driver.MaxBlob)))
		}
	}
	if c.TLS != nil {
		report("tls", "the memory driver has no connections to encrypt; leave it out")
	}
	if c.Credentials != nil {
		report("credentials", "the memory driver asks nobody for access; leave them out")
	}
	if err := driver.DecodeStrict(c.Asserts, &struct{}{}); err != nil {
		report("asserts", err.Error()+"; the memory driver has nothing to vouch for")
	}
	if bad != nil {
		return settings{}, errs.Invalid(bad...)
	}
	return settings{name: name, maxValue: options.MaxValue, maxObject: options.MaxObject}, nil
}

func parseURL(text string) (name string, ok bool) {
	if text == "memory:" {
		return "", true
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "memory" || u.Host == "" {
		return "", false
	}
	return u.Host, text == "memory://"+u.Host
}

// names holds the data that connections share.
type names struct {
	mu   sync.Mutex // guards open and every data.users
	open map[string]*data
}

// take returns the data of a name, or new data for the empty name. Each take
// is ended by one release.
func (n *names) take(name string, now func() time.Time) *data {
	n.mu.Lock()
	defer n.mu.Unlock()
	d := n.open[name]
	if d == nil {
		d = newData(name, now)
		if name != "" {
			n.open[name] = d
		}
	}
	d.users++
	return d
}

func (n *names) release(d *data) {
	n.mu.Lock()
	d.users--
	last := d.users == 0
	if last && n.open[d.name] == d {
		delete(n.open, d.name)
	}
	n.mu.Unlock()
	if last {
		d.close()
	}
}

// newEpoch returns the beginning of the versions of one data, so that no later
// data, of this process or the next one, gives out a version again.
func newEpoch() string {
	var b [10]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:])) + "-"
}

package drivertest

import (
	"fmt"
	"sync"
	"time"

	"github.com/prismgw/prism/driver"
)

func versionChecks() []check {
	return []check{
		{"versions/form", nil, versionForm},
		{"versions/each-change-gives-a-new-one", needsWriteVersions, newVersions},
		{"versions/never-repeat", needsWriteVersions, versionsNeverRepeat},
		{"versions/are-of-the-content", needsContentVersions, contentVersions},
		{"versions/one-everywhere", nil, versionEverywhere},
	}
}

func needsWriteVersions(e *env) string {
	if e.g.Version != driver.WriteVersions {
		return "versions are of the content: a rewrite of the same bytes keeps its version"
	}
	return ""
}

func needsContentVersions(e *env) string {
	if e.g.Version != driver.ContentVersions {
		return "every write gives a new version"
	}
	return ""
}

func versionForm(e *env) {
	s := e.store()
	versions := []string{
		s.put("a", "").Version, s.put("a", "1").Version, s.add("a", 1).Version, s.putFor("b", string(e.noise(100_000)), time.Hour).Version,
		s.expire("b", time.Minute).Version, s.add("c", -5).Version, s.putFor("c", "x", time.Second).Version,
	}
	for _, v := range versions {
		if v == "" || len(v) > driver.MaxVersion {
			e.Errorf("version %q has %d bytes, want 1 to %d", v, len(v), driver.MaxVersion)
		}
		for _, c := range v {
			if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' && c != '_' && c != '.' {
				e.Errorf("version %q holds %q", v, c)
			}
		}
	}
}

func newVersions(e *env) {
	s := e.store()
	last := s.put("a", "1").Version
	next := func(what, version string) {
		e.Helper()
		if version == last {
			e.Errorf("%s: the version stays %q", what, version)
		}
		last = version
		if got, err := s.kv.Get(e.ctx, "a", driver.WithExpiry); err != nil || got.Version != version {
			e.Errorf("%s: answered version %q, get has %q, %v", what, version, got.Version, err)
		}
	}
	next("put of the same value", s.put("a", "1").Version)
	next("put of another value", s.put("a", "2").Version)
	next("put with ttl", s.putFor("a", "2", time.Hour).Version)
	next("put without ttl", s.put("a", "2").Version)
	next("add of 0", s.add("a", 0).Version)
	next("add of 1", s.add("a", 1).Version)
	next("expire", s.expire("a", time.Hour).Version)
	next("expire again", s.expire("a", time.Hour).Version)
	next("put if version", s.ok(driver.Op{Kind: driver.Put, Key: "a", Value: []byte("3"), IfVersion: last}).Version)
}

// versionsNeverRepeat changes keys in every way, also by making them again
// after delete and expiry and through several connections at once.
func versionsNeverRepeat(e *env) {
	one := e.store()
	stores := []*store{one, one.again(e.open()), one.again(e.open())}
	var mu sync.Mutex
	seen := map[string]map[string]bool{}
	note := func(key, version string) {
		mu.Lock()
		defer mu.Unlock()
		if seen[key] == nil {
			seen[key] = map[string]bool{}
		}
		if seen[key][version] {
			e.Errorf("key %s had version %q before", key, version)
		}
		seen[key][version] = true
	}
	var wg sync.WaitGroup
	for w, s := range stores {
		wg.Go(func() {
			for i := range 60 {
				key := fmt.Sprint("k", (w+i)%4)
				for _, r := range s.apply(
					driver.Op{Kind: driver.Put, Key: key, Value: []byte("1")},
					driver.Op{Kind: driver.Delete, Key: key + "d"},
				)[:1] {
					note(key, r.Version)
				}
				note(key+"d", s.do(driver.Op{Kind: driver.Put, Key: key + "d", Value: []byte("1")}).Version)
				note(key+"n", s.do(driver.Op{Kind: driver.Add, Key: key + "n", Delta: 1}).Version)
				note(key+"e", s.do(driver.Op{Kind: driver.Put, Key: key + "e", TTL: e.ttl(time.Millisecond)}).Version)
			}
		})
	}
	wg.Wait()
}

func contentVersions(e *env) {
	s := e.store()
	a, b := s.put("a", "1").Version, s.put("b", "1").Version
	if a != b {
		e.Errorf("two keys of one value: versions %q and %q", a, b)
	}
	if v := s.put("a", "2").Version; v == a {
		e.Errorf("two values: one version %q", v)
	}
	if v := s.add("a", -1).Version; v != b {
		e.Errorf("add that gives the value of another key: version %q, want %q", v, b)
	}
	if v := s.expire("a", time.Hour).Version; v != b {
		e.Errorf("expire: version %q, want %q as before", v, b)
	}
	s.delete("a")
	if v := s.put("a", "1").Version; v != b {
		e.Errorf("made again with the same value: version %q, want %q", v, b)
	}
}

// versionEverywhere checks that every way to read a key tells one version.
func versionEverywhere(e *env) {
	s := e.store()
	two := s.again(e.open())
	for i, write := range []func() driver.Result{
		func() driver.Result { return s.put("a", "") },
		func() driver.Result { return s.putFor("a", "5", time.Hour) },
		func() driver.Result { return s.add("a", 37) },
		func() driver.Result { return s.expire("a", time.Minute) },
		func() driver.Result { return s.put("a", string(e.noise(70_000))) },
	} {
		want := write().Version
		got, err := s.kv.Get(e.ctx, "a", driver.WithExpiry)
		if err != nil {
			e.Fatalf("get: %s", describe(err))
		}
		for how, v := range map[string]string{
			"get":                       got.Version,
			"get many":                  s.getMany("a")[0].Version,
			"scan":                      s.all("a", 10)[0].Version,
			"another connection's get":  two.getMany("a")[0].Version,
			"another connection's scan": two.all("", 10)[0].Version,
		} {
			if v != want {
				e.Errorf("write %d answered version %q, %s has %q", i, want, how, v)
			}
		}
	}
}

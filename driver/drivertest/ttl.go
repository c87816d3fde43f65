package drivertest

import (
	"fmt"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func ttlChecks() []check {
	return []check{
		{"ttl/refused", needsNoTTL, ttlRefused},
		{"ttl/one-millisecond", needsTTL, oneMillisecond},
		{"ttl/ten-years", needsTTL, tenYears},
		{"ttl/expires-when-it-says", needsTTL, expiresInTime},
		{"ttl/expired-is-absent-at-once", needsTTL, absentAtOnce},
		{"ttl/put-replaces-it", needsTTL, putReplacesTTL},
		{"ttl/expire", needsTTL, expireSetsTTL},
		{"ttl/removal-spares-new-values", needsTTL, removalSparesNewValues},
	}
}

func needsTTL(e *env) string {
	if !e.g.TTL {
		return "entries cannot expire"
	}
	return ""
}

func needsNoTTL(e *env) string {
	if e.g.TTL {
		return "entries can expire"
	}
	return ""
}

func ttlRefused(e *env) {
	s := e.store()
	s.put("a", "1")
	s.fails(driver.Op{Kind: driver.Put, Key: "a", Value: []byte("2"), TTL: time.Hour}, errs.Unsupported)
	s.fails(driver.Op{Kind: driver.Put, Key: "b", TTL: time.Hour, IfAbsent: true}, errs.Unsupported)
	s.fails(driver.Op{Kind: driver.Expire, Key: "a", TTL: time.Hour}, errs.Unsupported)
	s.is("a", "1")
	s.absent("b")
}

// slack is how far the clocks of proxy and backend may be apart here, and how
// long a value may outlive its time.
const slack = 30 * time.Millisecond

func oneMillisecond(e *env) {
	s := e.store()
	for _, write := range []func(key string){
		func(key string) { s.putFor(key, "1", driver.MinTTL) },
		func(key string) { s.put(key, "1"); s.expire(key, driver.MinTTL) },
		func(key string) {
			s.ok(driver.Op{Kind: driver.Put, Key: key, TTL: driver.MinTTL, IfAbsent: true})
		},
	} {
		for i := range 10 {
			key := fmt.Sprint("k", i)
			write(key)
			gone := time.Now().Add(driver.MinTTL + slack)
			var alive time.Time // when the last read that found it began
			e.await("expiry after 1 ms", func() bool {
				begin := time.Now()
				if s.getMany(key)[0].Err != nil {
					return true
				}
				alive = begin
				return false
			})
			if late := alive.Sub(gone); late > time.Second {
				e.Fatalf("a value of 1 ms lived %s too long", late)
			}
			s.holds("", 10)
		}
	}
}

func tenYears(e *env) {
	s := e.store()
	s.expiresWithin("put", func() driver.Result { return s.putFor("a", "1", driver.MaxTTL) }, driver.MaxTTL)
	s.put("a", "1")
	s.expiresWithin("expire", func() driver.Result { return s.expire("a", driver.MaxTTL) }, driver.MaxTTL)
}

// expiresWithin checks that the key "a" expires a ttl after a write, to the
// millisecond, and that every way to read it says so.
func (s *store) expiresWithin(what string, write func() driver.Result, ttl time.Duration) {
	s.Helper()
	before := time.Now()
	r := write()
	after := time.Now()
	got, err := s.kv.Get(s.ctx, "a", driver.WithExpiry)
	if err != nil {
		s.Fatalf("get after %s: %s", what, describe(err))
	}
	if got.Expires.Before(before.Add(ttl-slack)) || got.Expires.After(after.Add(ttl+slack)) {
		s.Errorf("%s for %s: expires in %s", what, ttl, got.Expires.Sub(before))
	}
	reads := map[string]time.Time{"get many": s.getMany("a")[0].Expires, "scan": s.all("", 10)[0].Expires}
	if !r.Expires.IsZero() {
		reads["the answer"] = r.Expires
	}
	for how, at := range reads {
		if at.UnixMilli() != got.Expires.UnixMilli() {
			s.Errorf("%s for %s: get says %s, %s says %s", what, ttl, got.Expires, how, at)
		}
	}
}

func expiresInTime(e *env) {
	s := e.store()
	for _, ttl := range []time.Duration{time.Second, 1500 * time.Millisecond, time.Minute, time.Hour, 24*time.Hour + 1*time.Millisecond, 1000 * time.Hour} {
		s.expiresWithin("put", func() driver.Result { return s.putFor("a", "1", ttl) }, ttl)
		s.expiresWithin("expire", func() driver.Result { return s.expire("a", ttl+time.Minute) }, ttl+time.Minute)
		s.expiresWithin("add", func() driver.Result {
			s.putFor("a", "1", ttl)
			return s.add("a", 1)
		}, ttl)
	}
}

// absentAtOnce reads keys while they expire: a read that ended before the time
// finds them, one that began after it does not.
func absentAtOnce(e *env) {
	s := e.store()
	reads := map[string]func(key string) bool{
		"get":      func(key string) bool { _, err := s.kv.Get(e.ctx, key, driver.WithExpiry); return err == nil },
		"get many": func(key string) bool { return s.getMany(key)[0].Err == nil },
		"scan":     func(key string) bool { return len(s.all(key, 10)) > 0 },
		"scan of keys": func(key string) bool {
			return len(s.allOf(driver.ScanRequest{Prefix: key, Limit: 10, KeysOnly: true})) > 0
		},
		"if version": func(key string) bool {
			r := s.do(driver.Op{Kind: driver.Put, Key: key, IfVersion: "nonesuch"})
			return meta(r.Err, "current") != ""
		},
		"expire on a condition": func(key string) bool {
			r := s.do(driver.Op{Kind: driver.Expire, Key: key, TTL: time.Hour, IfVersion: "nonesuch"})
			return meta(r.Err, "current") != ""
		},
	}
	for how, present := range reads {
		key := "key of " + how
		const ttl = 60 * time.Millisecond
		begin := time.Now()
		s.putFor(key, "1", ttl)
		done := time.Now()
		for {
			start := time.Now()
			found := present(key)
			if end := time.Now(); !found && end.Before(begin.Add(ttl-slack)) {
				e.Errorf("%s: absent %s after a put for %s", how, end.Sub(begin), ttl)
			}
			if found && start.After(done.Add(ttl+slack)) {
				e.Errorf("%s: present %s after a put for %s", how, start.Sub(done), ttl)
			}
			if start.After(done.Add(ttl + slack)) {
				break
			}
		}
	}
}

func putReplacesTTL(e *env) {
	s := e.store()
	s.putFor("a", "1", time.Hour)
	s.put("a", "2")
	if got := s.is("a", "2"); !got.Expires.IsZero() {
		e.Errorf("put without ttl leaves the expiry %s", got.Expires)
	}
	s.expiresWithin("put over a key without ttl", func() driver.Result { return s.putFor("a", "3", time.Minute) }, time.Minute)
	s.expiresWithin("put over a key with ttl", func() driver.Result { return s.putFor("a", "3", time.Hour) }, time.Hour)
	version := s.is("a", "3").Version
	r := s.ok(driver.Op{Kind: driver.Put, Key: "a", Value: []byte("4"), IfVersion: version})
	if got := s.is("a", "4"); !got.Expires.IsZero() || got.Version != r.Version {
		e.Errorf("put if version without ttl leaves the expiry %s", got.Expires)
	}
	s.delete("a")
	s.putFor("a", "5", time.Hour)
	s.delete("a")
	s.put("a", "6")
	if got := s.is("a", "6"); !got.Expires.IsZero() {
		e.Errorf("a key that was made again has the expiry %s of the former one", got.Expires)
	}
}

func expireSetsTTL(e *env) {
	s := e.store()
	s.put("a", "1")
	s.expiresWithin("expire", func() driver.Result { return s.expire("a", time.Hour) }, time.Hour)
	s.expiresWithin("a shorter expire", func() driver.Result { return s.expire("a", time.Minute) }, time.Minute)
	s.expiresWithin("a longer expire", func() driver.Result { return s.expire("a", 2*time.Hour) }, 2*time.Hour)
	s.is("a", "1")
	r := s.expire("a", time.Hour)
	if r.Version == "" || r.Expires.IsZero() {
		e.Errorf("expire answers version and expiry: %+v", r)
	}
	s.fails(driver.Op{Kind: driver.Expire, Key: "missing", TTL: time.Hour}, errs.KeyNotFound)
	s.absent("missing")
}

// removalSparesNewValues overwrites values that are about to expire, with ones
// that do not, and waits until whatever removes expired entries has passed.
func removalSparesNewValues(e *env) {
	s := e.store()
	const keys = 200
	ops := make([]driver.Op, keys)
	names := make([]string, keys)
	for i := range ops {
		names[i] = fmt.Sprint("k", i)
		ops[i] = driver.Op{Kind: driver.Put, Key: names[i], Value: []byte("old"), TTL: time.Duration(i%40+1) * time.Millisecond}
	}
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		s.apply(ops...)
		for i := range ops {
			op := driver.Op{Kind: driver.Put, Key: names[i], Value: []byte("new")}
			if i%2 == 1 {
				op.TTL = time.Hour
			}
			s.ok(op)
		}
		for i, r := range s.getMany(names...) {
			if r.Err != nil || string(r.Value) != "new" {
				e.Fatalf("%s: %q, %v, want the new value", names[i], r.Value, r.Err)
			}
		}
	}
	time.Sleep(100 * time.Millisecond) // longer than any of the short times to live
	s.holds("", 100, names...)
	for i, r := range s.getMany(names...) {
		if r.Err != nil || string(r.Value) != "new" || r.Expires.IsZero() != (i%2 == 0) {
			e.Errorf("%s: %q, %v, expires %s", names[i], r.Value, r.Err, r.Expires)
		}
	}
}

package drivertest

import (
	"fmt"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

func conditionChecks() []check {
	return []check{
		{"conditions/every-kind-and-state", nil, conditionTable},
		{"conditions/metadata", nil, conditionMetadata},
		{"conditions/expired-is-absent", needsTTL, conditionsOnExpired},
		{"conditions/ttl-only-if-it-happens", needsTTL, failedConditionKeepsTTL},
		{"conditions/large-values", nil, conditionsOnLargeValues},
		{"conditions/rewrite-of-the-same-bytes", nil, rewriteOfSameBytes},
	}
}

// keyState is what a key has gone through before an operation.
type keyState struct {
	name    string
	ttl     bool                                                // whether it takes one
	make    func(s *store, key string) (current, former string) // its version now, and one that it has no more
	present bool
}

const brieflyTTL = 20 * time.Millisecond

func keyStates() []keyState {
	return []keyState{
		{"absent", false, func(s *store, key string) (string, string) {
			return "", s.put(key+"/other", "of another key").Version
		}, false},
		{"present", false, func(s *store, key string) (string, string) {
			former := s.put(key, "41").Version
			return s.put(key, "42").Version, former
		}, true},
		{"deleted", false, func(s *store, key string) (string, string) {
			former := s.put(key, "41").Version
			s.delete(key)
			return "", former
		}, false},
		{"made again", false, func(s *store, key string) (string, string) {
			former := s.put(key, "41").Version
			s.delete(key)
			return s.put(key, "42").Version, former
		}, true},
		{"with ttl", true, func(s *store, key string) (string, string) {
			former := s.put(key, "41").Version
			return s.putFor(key, "42", time.Hour).Version, former
		}, true},
		{"expired", true, func(s *store, key string) (string, string) {
			former := s.putFor(key, "41", brieflyTTL).Version
			s.await("expiry", func() bool { return s.getMany(key)[0].Err != nil })
			return "", former
		}, false},
	}
}

// conditionTable tries every kind of operation under every condition on every
// state of a key.
func conditionTable(e *env) {
	s := e.store()
	bodies := []driver.Op{
		{Kind: driver.Put, Value: []byte("100")},
		{Kind: driver.Delete},
		{Kind: driver.Add, Delta: 58},
		{Kind: driver.Expire, TTL: 2 * time.Hour},
	}
	for i, state := range keyStates() {
		if state.ttl && !e.g.TTL {
			continue
		}
		for j, body := range e.possible(bodies) {
			for _, condition := range []string{"none", "current", "former", "if absent"} {
				if condition == "if absent" && body.Kind != driver.Put || condition == "current" && !state.present {
					continue
				}
				body.Key = fmt.Sprintf("%d-%d-%s", i, j, condition)
				s.tryCondition(state, body, condition)
			}
		}
	}
}

func (s *store) tryCondition(state keyState, op driver.Op, condition string) {
	s.Helper()
	current, former := state.make(s, op.Key)
	switch condition {
	case "current":
		op.IfVersion = current
	case "former":
		op.IfVersion = former
	case "if absent":
		op.IfAbsent = true
	}
	name := fmt.Sprintf("%s on a key that is %s", opText(op), state.name)
	before := s.getMany(op.Key)[0]
	r := s.do(op)
	after := s.getMany(op.Key)[0]
	if want := expectedReason(state.present, &op, condition); want != errs.Unknown {
		s.wants(name, r.Err, want)
		if (before.Err == nil) != (after.Err == nil) || !sameEntry(before.Entry, after.Entry) {
			s.Errorf("%s: failed, and yet changed %+v to %+v", name, before, after)
		}
		return
	}
	if r.Err != nil {
		s.Errorf("%s: %s", name, describe(r.Err))
		return
	}
	s.checkEffect(name, &op, before, after, r)
}

// expectedReason returns why an operation has to fail, Unknown if it must not.
func expectedReason(present bool, op *driver.Op, condition string) errs.Reason {
	switch {
	case condition == "former":
		return errs.VersionMismatch
	case condition == "if absent" && present:
		return errs.AlreadyExists
	case op.Kind == driver.Expire && !present:
		return errs.KeyNotFound
	}
	return errs.Unknown
}

func (s *store) checkEffect(name string, op *driver.Op, before, after driver.GetResult, r driver.Result) {
	s.Helper()
	if op.Kind == driver.Delete {
		s.wants(name+", then get", after.Err, errs.KeyNotFound)
		return
	}
	want := map[driver.OpKind]string{driver.Put: "100", driver.Add: "58", driver.Expire: "42"}[op.Kind]
	if op.Kind == driver.Add && before.Err == nil {
		want = "100" // 42 + 58
	}
	if after.Err != nil || string(after.Value) != want {
		s.Errorf("%s: then get: %q, %v, want %q", name, after.Value, after.Err, want)
	}
	if after.Version != r.Version {
		s.Errorf("%s: answered version %q, then get has %q", name, r.Version, after.Version)
	}
	switch {
	case op.Kind == driver.Put && !after.Expires.IsZero():
		s.Errorf("%s: expires at %s, want never", name, after.Expires)
	case op.Kind == driver.Add && !after.Expires.Equal(before.Expires):
		s.Errorf("%s: expires at %s, want %s as before", name, after.Expires, before.Expires)
	case op.Kind == driver.Expire && after.Expires.IsZero():
		s.Errorf("%s: never expires", name)
	}
}

func conditionMetadata(e *env) {
	s := e.store()
	version := s.put("a", "1").Version
	former := s.put("former", "x").Version
	for _, op := range e.possible([]driver.Op{
		{Kind: driver.Put}, {Kind: driver.Put, TTL: time.Hour}, {Kind: driver.Delete}, {Kind: driver.Add, Delta: 1}, {Kind: driver.Expire, TTL: time.Hour},
	}) {
		op.Key, op.IfVersion = "a", former
		if got := s.failure(op, errs.VersionMismatch).Meta["current"]; got != version {
			e.Errorf("%s: metadata current is %q, want %q", opText(op), got, version)
		}
		op.Key = "missing"
		if got, there := s.failure(op, errs.VersionMismatch).Meta["current"]; there {
			e.Errorf("%s: metadata current is %q for an absent key", opText(op), got)
		}
	}
	op := driver.Op{Kind: driver.Put, Key: "a", IfAbsent: true}
	if got := s.failure(op, errs.AlreadyExists).Meta["version"]; got != version {
		e.Errorf("%s: metadata version is %q, want %q", opText(op), got, version)
	}
	for _, strange := range []string{"x", "0", "-1", "é", "'", version + "0", "0" + version, "1e3", "99999999999999999999", string(make([]byte, 64))} {
		s.fails(driver.Op{Kind: driver.Put, Key: "a", IfVersion: strange}, errs.VersionMismatch)
		s.fails(driver.Op{Kind: driver.Delete, Key: "missing", IfVersion: strange}, errs.VersionMismatch)
	}
	s.is("a", "1")
}

func conditionsOnExpired(e *env) {
	s := e.store()
	version := s.putFor("a", "7", brieflyTTL).Version
	s.await("expiry", func() bool { return s.getMany("a")[0].Err != nil })
	for _, kind := range []driver.OpKind{driver.Put, driver.Delete, driver.Add, driver.Expire} {
		op := driver.Op{Kind: kind, Key: "a", IfVersion: version}
		if kind == driver.Expire {
			op.TTL = time.Hour
		}
		if got, there := s.failure(op, errs.VersionMismatch).Meta["current"]; there {
			e.Errorf("%s: metadata current is %q for an expired key", opText(op), got)
		}
	}
	s.fails(driver.Op{Kind: driver.Expire, Key: "a", TTL: time.Hour}, errs.KeyNotFound)
	s.delete("a")
	s.absent("a")
	s.ok(driver.Op{Kind: driver.Put, Key: "a", Value: []byte("8"), IfAbsent: true})
	s.is("a", "8")
}

func failedConditionKeepsTTL(e *env) {
	s := e.store()
	s.putFor("a", "1", time.Hour)
	before := s.is("a", "1")
	former := s.put("other", "x").Version
	s.fails(driver.Op{Kind: driver.Put, Key: "a", IfVersion: former}, errs.VersionMismatch)
	s.fails(driver.Op{Kind: driver.Put, Key: "a", IfAbsent: true, TTL: time.Minute}, errs.AlreadyExists)
	s.fails(driver.Op{Kind: driver.Expire, Key: "a", IfVersion: former, TTL: time.Minute}, errs.VersionMismatch)
	if after := s.is("a", "1"); !sameEntry(before, after) {
		e.Errorf("failed operations changed %s to %s", before.Expires, after.Expires)
	}
}

// conditionsOnLargeValues crosses the sizes at which a technology may change
// the way it compares.
func conditionsOnLargeValues(e *env) {
	s := e.store()
	for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 256 << 10} {
		if size >= e.g.MaxValue { // one more is put, too
			continue
		}
		key := fmt.Sprint("size", size)
		value := noise(size)
		r := s.ok(driver.Op{Kind: driver.Put, Key: key, Value: value, IfAbsent: true})
		s.is(key, string(value))
		other := append(noise(size), '!')
		next := s.ok(driver.Op{Kind: driver.Put, Key: key, Value: other, IfVersion: r.Version, TTL: e.ttl(time.Hour)})
		s.fails(driver.Op{Kind: driver.Put, Key: key, Value: value, IfVersion: r.Version}, errs.VersionMismatch)
		s.fails(driver.Op{Kind: driver.Put, Key: key, Value: value, IfAbsent: true}, errs.AlreadyExists)
		if got := s.is(key, string(other)); got.Version != next.Version || got.Expires.IsZero() == e.g.TTL {
			e.Errorf("put if version of %d bytes: got version %s, expires %s", size, got.Version, got.Expires)
		}
		if e.g.TTL {
			next = s.ok(driver.Op{Kind: driver.Expire, Key: key, IfVersion: next.Version, TTL: 2 * time.Hour})
		}
		s.ok(driver.Op{Kind: driver.Delete, Key: key, IfVersion: next.Version})
		s.absent(key)
	}
}

// rewriteOfSameBytes is what the two kinds of versions differ in.
func rewriteOfSameBytes(e *env) {
	s := e.store()
	first := s.put("a", "1").Version
	s.put("a", "2")
	again := s.put("a", "1").Version
	op := driver.Op{Kind: driver.Put, Key: "a", Value: []byte("3"), IfVersion: first}
	if e.g.Version == driver.ContentVersions {
		if first != again {
			e.Errorf("content versions: %q and %q for the same value", first, again)
		}
		s.ok(op)
		s.is("a", "3")
		return
	}
	if first == again {
		e.Errorf("write versions: version %q came twice", first)
	}
	s.fails(op, errs.VersionMismatch)
	s.is("a", "1")
}

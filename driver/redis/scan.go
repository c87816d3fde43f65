package redis

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

const (
	stepMin   = 16   // how many keys of the server one SCAN looks at
	stepMax   = 1000 // so that the server is not held up
	pageSteps = 100  // a page of a space with few keys may end up empty
)

// Scan goes through everything a server holds, in steps that the server
// chooses. A step that does not fit the page is left for the next one; a step
// that alone is over the limit is cut, and the cursor remembers what was given.
func (k *kv) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	c, err := k.link.get(ctx)
	if err != nil {
		return driver.Page{}, k.link.fail(ctx, err, false)
	}
	s := scan{
		kv: k, client: c, request: r, step: stepMin,
		bound: k.layout.space + "\x00" + r.Prefix,
		match: globEscape(k.layout.prefix+r.Prefix) + "*" + globEscape(k.layout.suffix),
	}
	if err := s.begin(ctx); err != nil {
		return driver.Page{}, err
	}
	return s.page(ctx)
}

// scan makes one page.
type scan struct {
	kv      *kv
	client  rueidis.Client
	request driver.ScanRequest
	bound   string // what the cursor is bound to
	match   string // glob of Redis keys

	nodes   []rueidis.Client
	at      cursor
	checked bool // that at.server is who answers
	step    int
	items   []driver.Item
	bytes   int
}

// begin reads the cursor and finds the servers it speaks of.
func (s *scan) begin(ctx context.Context) error {
	if len(s.request.Cursor) > 0 {
		var err error
		if s.at, err = decodeCursor(s.request.Cursor, s.bound); err != nil {
			return err
		}
	}
	nodes, origin, err := s.kv.link.servers(ctx, s.client)
	if err != nil {
		return err
	}
	if len(s.request.Cursor) > 0 && (s.at.origin != origin || int(s.at.node) >= len(nodes)) {
		return errs.StaleCursor
	}
	s.at.origin, s.nodes = origin, nodes
	return nil
}

func (s *scan) page(ctx context.Context) (driver.Page, error) {
	for range pageSteps {
		keys, next, err := s.look(ctx)
		if err != nil {
			return driver.Page{}, err
		}
		keys, all := s.fresh(keys)
		if all > s.room() && s.step > 1 {
			s.step = max(1, s.step/4)
			continue
		}
		if len(keys) > s.request.Limit-len(s.items) && len(s.items) > 0 {
			break
		}
		done, err := s.take(ctx, keys)
		if err != nil {
			return driver.Page{}, err
		}
		if done < len(keys) {
			return s.cut(keys[:done])
		}
		if s.advance(next) {
			return driver.Page{Items: s.items}, nil
		}
		if s.full() {
			break
		}
		s.adapt(all)
	}
	return driver.Page{Items: s.items, Next: s.at.encode(s.bound)}, nil
}

func (s *scan) room() int { return maxGiven - len(s.at.given) }

func (s *scan) full() bool {
	return len(s.items) >= s.request.Limit || s.request.MaxBytes > 0 && s.bytes >= s.request.MaxBytes
}

// adapt makes the steps longer while they find little.
func (s *scan) adapt(found int) {
	if found < s.step/4 {
		s.step = min(2*s.step, stepMax)
	}
}

// look asks the server for the keys of one step.
func (s *scan) look(ctx context.Context) (keys []string, next uint64, err error) {
	node, link := s.nodes[s.at.node], s.kv.link
	cmds := []rueidis.Completed{node.B().Scan().Cursor(s.at.at).Match(s.match).Count(int64(s.step)).Type("string").Build()}
	if !s.checked {
		cmds = append(cmds, node.B().Info().Section("server").Build())
	}
	answers := link.many(ctx, node, cmds)
	if !s.checked {
		info, err := answers[1].ToString()
		if err != nil {
			return nil, 0, link.fail(ctx, err, false)
		}
		run := hash(infoField(info, "run_id"))
		if s.at.server != 0 && s.at.server != run {
			return nil, 0, errs.StaleCursor
		}
		s.at.server, s.checked = run, true
	}
	entry, err := answers[0].AsScanEntry()
	if err != nil {
		return nil, 0, link.fail(ctx, err, false)
	}
	return entry.Elements, entry.Cursor, nil
}

// fresh returns the keys of the space among Redis' names without those that
// were given already, and how many there are with them.
func (s *scan) fresh(names []string) (keys []string, all int) {
	slices.Sort(names)
	keys = make([]string, 0, len(names))
	for _, name := range slices.Compact(names) {
		key, ok := s.kv.layout.key(name)
		if !ok {
			continue
		}
		all++
		if len(s.at.given) == 0 || !slices.Contains(s.at.given, hash(key)) {
			keys = append(keys, key)
		}
	}
	return keys, all
}

// take adds the entries of keys to the page as far as they fit, and returns
// how many keys it has dealt with.
func (s *scan) take(ctx context.Context, keys []string) (done int, err error) {
	keys = keys[:min(len(keys), s.request.Limit-len(s.items))]
	if len(keys) == 0 {
		return 0, nil
	}
	if s.request.KeysOnly {
		for i, key := range keys {
			s.add(driver.Item{Key: key})
			if s.full() {
				return i + 1, nil
			}
		}
		return len(keys), nil
	}
	if keys, err = s.fitting(ctx, keys); err != nil {
		return 0, err
	}
	results := make([]driver.GetResult, len(keys))
	s.kv.GetMany(ctx, keys, driver.WithExpiry, results)
	for i, r := range results {
		switch errs.ReasonOf(r.Err) {
		case errs.Unknown:
			s.add(driver.Item{Key: keys[i], Entry: r.Entry})
		case errs.KeyNotFound, errs.WrongType: // changed since the server told it
		default:
			return 0, r.Err
		}
	}
	return len(keys), nil
}

// fitting returns the keys up to the one whose value reaches MaxBytes, so that
// no more than those are read.
func (s *scan) fitting(ctx context.Context, keys []string) ([]string, error) {
	if s.request.MaxBytes <= 0 {
		return keys, nil
	}
	cmds := make([]rueidis.Completed, len(keys))
	for i, key := range keys {
		cmds[i] = s.client.B().Strlen().Key(s.kv.layout.name(key)).Build()
	}
	total := s.bytes
	for i, answer := range s.kv.link.many(ctx, s.client, cmds) {
		n, err := answer.AsInt64()
		if err != nil {
			if err = s.kv.link.fail(ctx, err, false); errs.ReasonOf(err) != errs.WrongType {
				return nil, err
			}
		}
		if total += len(keys[i]) + int(n); total >= s.request.MaxBytes {
			return keys[:i+1], nil
		}
	}
	return keys, nil
}

func (s *scan) add(i driver.Item) {
	s.items = append(s.items, i)
	s.bytes += len(i.Key) + len(i.Value)
}

// advance moves the cursor behind a step; end means that nothing follows.
func (s *scan) advance(next uint64) (end bool) {
	s.at.at, s.at.given = next, nil
	if next != 0 {
		return false
	}
	s.at.node++
	s.at.server, s.checked = 0, false
	return int(s.at.node) == len(s.nodes)
}

// cut ends the page in the middle of a step.
func (s *scan) cut(given []string) (driver.Page, error) {
	if len(given) > s.room() {
		return driver.Page{}, errs.New(errs.StaleCursor, "the backend gives too many keys at once for pages this small; scan with larger pages")
	}
	for _, key := range given {
		s.at.given = append(s.at.given, hash(key))
	}
	return driver.Page{Items: s.items, Next: s.at.encode(s.bound)}, nil
}

// globEscape returns the pattern that matches text alone.
func globEscape(text string) string {
	if !strings.ContainsAny(text, `*?[]\^-`) {
		return text
	}
	var b strings.Builder
	for i := range len(text) {
		if strings.IndexByte(`*?[]\`, text[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// infoField returns one value of an answer of INFO, "" if it is not in it.
func infoField(info, name string) string {
	for line := range strings.SplitSeq(info, "\n") {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+":"); ok {
			return value
		}
	}
	return ""
}

// servers returns clients for the servers that hold the data, in a fixed
// order, and a number that changes when who holds what does.
func (l *link) servers(ctx context.Context, c rueidis.Client) ([]rueidis.Client, uint64, error) {
	if c.Mode() != rueidis.ClientModeCluster {
		return []rueidis.Client{c}, uint64(c.Mode()[0]), nil
	}
	groups, err := l.one(ctx, c, c.B().ClusterSlots().Build()).ToArray()
	if err != nil {
		return nil, 0, l.fail(ctx, err, false)
	}
	masters := map[string]string{} // address by id
	var ranges []string
	for _, g := range groups {
		id, addr, slots, ok := slotGroup(g)
		if !ok {
			return nil, 0, errs.New(errs.BackendUnavailable, "the backend's cluster does not tell who holds what")
		}
		masters[id] = addr
		ranges = append(ranges, id+" "+slots)
	}
	slices.Sort(ranges)
	return l.masters(c, masters, ranges)
}

func (l *link) masters(c rueidis.Client, addrs map[string]string, ranges []string) ([]rueidis.Client, uint64, error) {
	ids := make([]string, 0, len(addrs))
	for id := range addrs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	known := c.Nodes()
	nodes := make([]rueidis.Client, 0, len(ids))
	for _, id := range ids {
		n, ok := known[addrs[id]]
		if !ok { // the client has not learned of it yet
			return nil, 0, errs.New(errs.BackendUnavailable, "the backend's cluster is changing")
		}
		nodes = append(nodes, n)
	}
	return nodes, hash(strings.Join(ranges, "\n")), nil
}

// slotGroup reads one element of CLUSTER SLOTS: first slot, last slot, and the
// master's host, port and id.
func slotGroup(m rueidis.RedisMessage) (id, addr, slots string, ok bool) {
	group, err := m.ToArray()
	if err != nil || len(group) < 3 {
		return "", "", "", false
	}
	from, err1 := group[0].AsInt64()
	to, err2 := group[1].AsInt64()
	master, err3 := group[2].ToArray()
	if err1 != nil || err2 != nil || err3 != nil || len(master) < 3 {
		return "", "", "", false
	}
	host, err1 := master[0].ToString()
	port, err2 := master[1].AsInt64()
	id, err3 = master[2].ToString()
	if err1 != nil || err2 != nil || err3 != nil {
		return "", "", "", false
	}
	return id, joinHostPort(host, port), strconv.FormatInt(from, 10) + "-" + strconv.FormatInt(to, 10), true
}

package brokers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/internal/testutil/servers"
)

// redisStream is one stream, one partition of a topic, of a server that other
// tests may share, and the group g on it.
type redisStream struct {
	client rueidis.Client
	key    string
}

func newRedisStream(t *testing.T, server *servers.Server) *redisStream {
	t.Helper()
	client := redisClient(t, server)
	s := &redisStream{client: client, key: "{" + t.Name() + "}.orders.0"}
	t.Cleanup(func() {
		del := client.B().Del().Key(s.key).Build()
		if err := client.Do(context.Background(), del).Error(); err != nil {
			t.Logf("the stream stays behind: %v", err)
		}
	})
	s.must(t, "XGROUP CREATE KEY g 0 MKSTREAM")
	return s
}

func redisClient(t *testing.T, server *servers.Server) rueidis.Client {
	t.Helper()
	opt, err := rueidis.ParseURL(server.URL)
	must(t, err)
	opt.DisableCache = true
	c, err := rueidis.NewClient(opt)
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// do sends a command, in which KEY stands for the stream; its answer is
// written down the way Redis nests it, of a map its values: "[[1-0 [m 1]]]".
func (s *redisStream) do(t *testing.T, command string) (string, error) {
	t.Helper()
	var args []string
	for word := range strings.FieldsSeq(command) {
		args = append(args, strings.ReplaceAll(word, "KEY", s.key))
	}
	return s.args(t.Context(), args...)
}

func (s *redisStream) args(ctx context.Context, args ...string) (string, error) {
	m, err := s.client.Do(ctx, s.client.B().Arbitrary(args...).Build()).ToMessage()
	if err != nil {
		if rueidis.IsRedisNil(err) {
			return "nil", nil
		}
		return "", err
	}
	return written(m), nil
}

func (s *redisStream) must(t *testing.T, command string) string {
	t.Helper()
	got, err := s.do(t, command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return got
}

// is fails unless a command has this answer.
func (s *redisStream) is(t *testing.T, command, want string) {
	t.Helper()
	if got := s.must(t, command); got != want {
		t.Errorf("%s:\ngot  %s\nwant %s", command, got, want)
	}
}

func written(m rueidis.RedisMessage) string {
	if all, err := m.ToArray(); err == nil {
		return writtenAll(all)
	}
	if m.IsMap() {
		var values []rueidis.RedisMessage
		if fields, err := m.ToMap(); err == nil {
			values = slices.Collect(maps.Values(fields))
		}
		return writtenAll(values)
	}
	if m.IsNil() {
		return "nil"
	}
	if n, err := m.ToInt64(); err == nil {
		return strconv.FormatInt(n, 10)
	}
	text, err := m.ToString()
	if err != nil {
		return err.Error()
	}
	return text
}

func writtenAll(all []rueidis.RedisMessage) string {
	var parts []string
	for _, m := range all {
		parts = append(parts, written(m))
	}
	return "[" + strings.Join(parts, " ") + "]"
}

// add adds the entries 1-0 to n-0.
func (s *redisStream) add(t *testing.T, first, last int) {
	t.Helper()
	for i := first; i <= last; i++ {
		s.is(t, fmt.Sprintf("XADD KEY %d-0 m %d", i, i), fmt.Sprintf("%d-0", i))
	}
}

// read gives up to n entries that nobody has had yet to a member of the group,
// and returns their ids.
func (s *redisStream) read(t *testing.T, member string, n int) []string {
	t.Helper()
	cmd := s.client.B().Xreadgroup().Group("g", member).Count(int64(n)).Streams().Key(s.key).Id(">").Build()
	streams, err := s.client.Do(t.Context(), cmd).AsXRead()
	if rueidis.IsRedisNil(err) {
		return nil
	}
	must(t, err)
	return entryIDs(streams[s.key])
}

func entryIDs(entries []rueidis.XRangeEntry) (all []string) {
	for _, e := range entries {
		all = append(all, e.ID)
	}
	return all
}

// pending says of each entry that members have in hand who has it and how often
// it was delivered: "1-0 a#1".
func (s *redisStream) pending(t *testing.T) string {
	t.Helper()
	list, err := s.client.Do(t.Context(), s.client.B().Xpending().Key(s.key).Group("g").Start("-").End("+").Count(100).Build()).ToArray()
	must(t, err)
	var all []string
	for _, entry := range list {
		fields, err := entry.ToArray()
		must(t, err)
		all = append(all, fmt.Sprintf("%s %s#%s", written(fields[0]), written(fields[1]), written(fields[3])))
	}
	return strings.Join(all, ", ")
}

func (s *redisStream) wantPending(t *testing.T, want string) {
	t.Helper()
	if got := s.pending(t); got != want {
		t.Fatalf("in hand are: %s\nwant:         %s", got, want)
	}
}

// info returns one number that Redis tells of the group or, with an empty name,
// of the stream; -1 stands for one that Redis does not know.
func (s *redisStream) info(t *testing.T, group, field string) int64 {
	t.Helper()
	var fields map[string]rueidis.RedisMessage
	if group == "" {
		got, err := s.client.Do(t.Context(), s.client.B().XinfoStream().Key(s.key).Build()).ToMap()
		must(t, err)
		fields = got
	} else {
		groups, err := s.client.Do(t.Context(), s.client.B().XinfoGroups().Key(s.key).Build()).ToArray()
		must(t, err)
		for _, g := range groups {
			got, err := g.ToMap()
			must(t, err)
			name := got["name"]
			if written(name) == group {
				fields = got
			}
		}
	}
	value, ok := fields[field]
	if !ok {
		t.Fatalf("Redis does not tell %s", field)
	}
	if value.IsNil() {
		return -1
	}
	n, err := value.AsInt64()
	must(t, err)
	return n
}

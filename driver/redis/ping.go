package redis

import (
	"context"
	"net"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/errs"
)

// oldest is the first major version with every command that is used.
const oldest = 7

func joinHostPort(host string, port int64) string {
	return net.JoinHostPort(host, strconv.FormatInt(port, 10))
}

// ping asks every server that holds data whether it is what the configuration
// says.
func ping(ctx context.Context, l *link, s settings) error {
	c, err := l.get(ctx)
	if err != nil {
		return l.fail(ctx, err, false)
	}
	nodes, _, err := l.servers(ctx, c)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := pingServer(ctx, l, n, s); err != nil {
			return err
		}
	}
	return nil
}

func pingServer(ctx context.Context, l *link, c rueidis.Client, s settings) error {
	answers := l.many(ctx, c, []rueidis.Completed{
		c.B().Info().Section("server").Build(), // one section each: several at once are new in 7
		c.B().Info().Section("replication").Build(),
		c.B().ConfigGet().Parameter("appendonly", "appendfsync", "maxmemory", "maxmemory-policy").Build(),
	})
	about, err := answers[0].ToString()
	if err != nil {
		return l.fail(ctx, err, false)
	}
	if err := checkServer(about, s.mode); err != nil {
		return err
	}
	role, err := answers[1].ToString()
	if err != nil {
		return l.fail(ctx, err, false)
	}
	if infoField(role, "role") != "master" {
		return errs.New(errs.ReadOnly, "the backend is a replica and takes no writes; name its master in the url, or the Sentinels")
	}
	set, err := answers[2].AsStrMap()
	if err != nil {
		if _, refused := rueidis.IsRedisErr(err); refused { // not our user's to read: the operator's word stands
			return nil
		}
		return l.fail(ctx, err, false)
	}
	return s.asserts.check(set)
}

func checkServer(info string, m mode) error {
	version := infoField(info, "redis_version")
	major, _, _ := strings.Cut(version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < oldest {
		return errs.New(errs.InvalidConfiguration, "the backend is Redis %q; Prism needs %d or newer", version, oldest)
	}
	clustered := infoField(info, "redis_mode") == "cluster"
	switch {
	case clustered && m != cluster:
		return errs.New(errs.InvalidConfiguration, "the backend is a Redis Cluster; write redis+cluster:// or rediss+cluster:// in its url")
	case !clustered && m == cluster:
		return errs.New(errs.InvalidConfiguration, "the backend is no Redis Cluster; write redis:// or rediss:// in its url")
	}
	return nil
}

// check compares what the operator vouches for with what the server says.
func (a asserts) check(set map[string]string) error {
	for _, one := range []struct{ name, asserted string }{{"appendonly", a.AppendOnly}, {"appendfsync", a.AppendFsync}} {
		if said, ok := set[one.name]; ok && one.asserted != "" && said != one.asserted {
			return errs.New(errs.InvalidConfiguration, "asserts.%s is %s, but the backend says %s; change one of them", one.name, one.asserted, said)
		}
	}
	policy := set["maxmemory-policy"]
	if a.AppendOnly == "yes" && strings.HasPrefix(policy, "allkeys-") && set["maxmemory"] != "0" {
		return errs.New(errs.InvalidConfiguration, "asserts.appendonly is yes, but the backend's maxmemory-policy %s removes keys when memory is full; set noeviction or a volatile policy", policy)
	}
	return nil
}

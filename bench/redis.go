package main

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strconv"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

// startRedis runs a Redis server that keeps nothing on disk: what is measured
// is the way to it.
func (b *bench) startRedis(ctx context.Context) (*process, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not installed")
	}
	dir, err := b.sub("redis")
	if err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	cmd := exec.Command(binary, "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir, "--save", "", "--appendonly", "no") //nolint:gosec,noctx // stop ends it
	p, err := start(ctx, cmd, func(*process) (bool, error) {
		c := goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1})
		defer c.Close() //nolint:errcheck // it was only to ask
		err := c.Ping(ctx).Err()
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	p.addrs.GRPC = addr
	return p, nil
}

// freePort returns a port that nobody listens on.
func freePort(ctx context.Context) (int, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("the listener has no port")
	}
	return addr.Port, nil
}

// goRedisData and its kind are keys of their own beside those of Prism.
const (
	goRedisData = "go-redis:"
	rueidisData = "rueidis:"
)

// newGoRedis is the usual client as it comes, or with its automatic pipelining.
func newGoRedis(name, addr string, pipelined bool) *contender {
	return &contender{name: name, data: goRedisData, open: func(ctx context.Context, w workload) (session, error) {
		c := goredis.NewClient(&goredis.Options{Addr: addr, ReadTimeout: time.Minute, WriteTimeout: time.Minute})
		var commands goredis.Cmdable = c
		shut := func() { _ = c.Close() }
		if pipelined {
			auto, err := c.AutoPipeline()
			if err != nil {
				return session{}, errors.Join(err, c.Close())
			}
			commands = auto
		}
		all, val := prefixed(goRedisData, w.size), value(w.size)
		do := func(_, n int) error {
			_, err := commands.Get(ctx, all[n%len(all)]).Bytes()
			return err
		}
		if w.verb == store {
			do = func(_, n int) error { return commands.Set(ctx, all[n%len(all)], val, 0).Err() }
		}
		return session{do, shut}, nil
	}}
}

// newRueidis is the client that pipelines what runs at the same time.
func newRueidis(name, addr string) *contender {
	return &contender{name: name, data: rueidisData, open: func(ctx context.Context, w workload) (session, error) {
		c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true})
		if err != nil {
			return session{}, err
		}
		all, val := prefixed(rueidisData, w.size), rueidis.BinaryString(value(w.size))
		do := func(_, n int) error {
			_, err := c.Do(ctx, c.B().Get().Key(all[n%len(all)]).Build()).AsBytes()
			return err
		}
		if w.verb == store {
			do = func(_, n int) error { return c.Do(ctx, c.B().Set().Key(all[n%len(all)]).Value(val).Build()).Error() }
		}
		return session{do, c.Close}, nil
	}}
}

func prefixed(prefix string, size int) []string {
	all := keys(size)
	for i := range all {
		all[i] = prefix + all[i]
	}
	return all
}

package redis

import (
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/internal/testutil/servers"
)

// BenchmarkReads compares what a read can cost at 64 callers: the value alone
// with its version, with its expiry as a second command of the same round trip
// (what the driver does), and value and expiry by one script.
func BenchmarkReads(b *testing.B) {
	s := servers.RedisWith(b)
	conn, err := Driver().Open(driver.Config{URL: s.URL})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	backend, err := conn.Space(driver.Space{Namespace: "n", Pattern: "p"})
	if err != nil {
		b.Fatal(err)
	}
	results := make([]driver.Result, 1)
	backend.KV.Apply(b.Context(), []driver.Op{{Kind: driver.Put, Key: "k", Value: []byte(strings.Repeat("v", 128))}}, results)
	if results[0].Err != nil {
		b.Fatal(results[0].Err)
	}
	k := backend.KV.(*kv) //nolint:forcetypeassert // this package's own
	c, err := k.link.get(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	script := rueidis.NewLuaScriptReadOnly(`return {redis.call('GET', KEYS[1]), redis.call('PEXPIRETIME', KEYS[1])}`)
	for name, read := range map[string]func() error{
		"value": func() error {
			_, err := k.Get(b.Context(), "k", driver.ValueOnly)
			return err
		},
		"with expiry": func() error {
			_, err := k.Get(b.Context(), "k", driver.WithExpiry)
			return err
		},
		"script": func() error {
			return script.Exec(b.Context(), c, []string{"n:p:k"}, nil).Error()
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32) // times GOMAXPROCS
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if err := read(); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

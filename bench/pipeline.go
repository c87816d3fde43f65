package main

import (
	"context"

	"github.com/prismgw/prism/client"
)

// newSDK makes calls through the Go SDK, which multiplexes them over a few
// Pipeline streams by itself. Against the echo server the same code runs, so
// that only the servers differ.
func newSDK(name, data string, server *process) *contender {
	return &contender{name: name, data: data, server: server, open: func(ctx context.Context, w workload) (session, error) {
		c, err := client.Dial(server.addrs.GRPC)
		if err != nil {
			return session{}, err
		}
		kv := c.KeyValue(namespaceName)
		all, val := keys(w.size), value(w.size)
		do := func(_, n int) error {
			_, err := kv.Retrieve(ctx, all[n%len(all)])
			return err
		}
		if w.verb == store {
			do = func(_, n int) error {
				_, err := kv.Store(ctx, all[n%len(all)], val)
				return err
			}
		}
		return session{do, func() { _ = c.Close() }}, nil
	}}
}

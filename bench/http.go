package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// newREST makes HTTP calls over a pool of connections that stay open.
func newREST(name, data string, server *process) *contender {
	return &contender{name: name, data: data, server: server, open: func(ctx context.Context, w workload) (session, error) {
		transport := &http.Transport{MaxIdleConnsPerHost: openWorkers, DisableCompression: true}
		r := &rest{client: &http.Client{Transport: transport}, value: value(w.size)}
		for _, key := range keys(w.size) {
			r.urls = append(r.urls, "http://"+server.addrs.HTTP+"/v1/namespaces/"+namespaceName+"/keyvalue/"+key)
		}
		do := func(_, n int) error { return r.call(ctx, http.MethodGet, n, nil) }
		if w.verb == store {
			do = func(_, n int) error { return r.call(ctx, http.MethodPut, n, bytes.NewReader(r.value)) }
		}
		return session{do, transport.CloseIdleConnections}, nil
	}}
}

type rest struct {
	client *http.Client
	urls   []string
	value  []byte
}

func (r *rest) call(ctx context.Context, verb string, n int, body io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, verb, r.urls[n%len(r.urls)], body)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s", verb, req.URL.Path, resp.Status)
	}
	return nil
}

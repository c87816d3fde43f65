package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/prismgw/prism/api/codec"
)

// startDaprd runs Dapr's sidecar with one state store, as it comes: metrics on,
// no tracing, no actors.
func (b *bench) startDaprd(ctx context.Context, component string) (*process, error) {
	binary, err := exec.LookPath("daprd")
	if err != nil {
		return nil, errors.New("daprd is not on PATH")
	}
	dir, err := b.sub("daprd")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "store.yaml"), []byte(component), 0o600); err != nil {
		return nil, err
	}
	args := []string{
		"--app-id", "bench", "--resources-path", dir, "--log-level", "error", "--dapr-listen-addresses", "127.0.0.1",
		"--placement-host-address", "", "--scheduler-host-address", "",
	}
	addrs := make(map[string]string)
	for _, flag := range []string{"--dapr-grpc-port", "--dapr-http-port", "--dapr-internal-grpc-port", "--metrics-port"} {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		addrs[flag] = "127.0.0.1:" + strconv.Itoa(port)
		args = append(args, flag, strconv.Itoa(port))
	}
	cmd := exec.Command(binary, args...) //nolint:gosec,noctx // stop ends it
	cmd.Dir = dir
	p, err := start(ctx, cmd, func(*process) (bool, error) { return healthy(ctx, addrs["--dapr-http-port"]) })
	if err != nil {
		return nil, err
	}
	p.addrs.GRPC = addrs["--dapr-grpc-port"]
	return p, nil
}

// healthy asks whether a sidecar can be called.
func healthy(ctx context.Context, addr string) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1.0/healthz/outbound", http.NoBody)
	if err != nil {
		return false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil //nolint:nilerr // not yet
	}
	return resp.StatusCode == http.StatusNoContent, resp.Body.Close()
}

// daprStore is the name of the sidecar's state store.
const daprStore = "store"

// daprComponent describes a state store.
func daprComponent(kind, metadata string) string {
	return fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: %s}\nspec: {type: %s, version: v1, metadata: [%s]}\n", daprStore, kind, metadata)
}

// newDaprd makes unary calls to a sidecar, over as many connections as those
// to Prism. Its requests are encoded beforehand, so that the client costs it
// nothing of what a generated one would.
func newDaprd(name string, server *process) *contender {
	return &contender{name: name, server: server, noAllocs: true, data: name, open: func(ctx context.Context, w workload) (session, error) {
		conns, err := dialAll(ctx, server.addrs.GRPC, unaryConns)
		if err != nil {
			return session{}, err
		}
		val := value(w.size)
		var requests []encoded
		for _, key := range keys(w.size) {
			requests = append(requests, daprRequest(w.verb, key, val))
		}
		do := func(caller, n int) error {
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			conn, request := conns[caller%len(conns)], requests[n%len(requests)]
			if w.verb == store {
				return conn.Invoke(ctx, "/dapr.proto.runtime.v1.Dapr/SaveState", request, new(daprValue))
			}
			var got daprValue
			err := conn.Invoke(ctx, "/dapr.proto.runtime.v1.Dapr/GetState", request, &got)
			if err == nil && got.size != w.size {
				err = fmt.Errorf("a value of %d bytes came back with %d", w.size, got.size)
			}
			return err
		}
		return session{do, func() { closeAll(conns) }}, nil
	}}
}

// The fields of Dapr's messages that are used here, of
// dapr/proto/runtime/v1/state.proto and dapr/proto/common/v1/common.proto.
const (
	daprStoreName  protowire.Number = 1 // of GetStateRequest, SaveStateRequest
	daprStateKey   protowire.Number = 2 // of GetStateRequest
	daprStates     protowire.Number = 2 // of SaveStateRequest
	daprItemKey    protowire.Number = 1 // of StateItem
	daprItemValue  protowire.Number = 2 // of StateItem
	daprStateValue protowire.Number = 1 // of GetStateResponse
)

// encoded is a message as it goes over the wire.
type encoded []byte

// SizeVT implements what codec.V2 asks for.
func (e encoded) SizeVT() int { return len(e) }

// MarshalToSizedBufferVT implements what codec.V2 asks for.
func (e encoded) MarshalToSizedBufferVT(data []byte) (int, error) { return copy(data, e), nil } //nolint:unparam // as the codec has it

func daprRequest(v verb, key string, value []byte) encoded {
	b := protowire.AppendString(protowire.AppendTag(nil, daprStoreName, protowire.BytesType), daprStore)
	if v == retrieve {
		return protowire.AppendString(protowire.AppendTag(b, daprStateKey, protowire.BytesType), key)
	}
	item := protowire.AppendString(protowire.AppendTag(nil, daprItemKey, protowire.BytesType), key)
	item = protowire.AppendBytes(protowire.AppendTag(item, daprItemValue, protowire.BytesType), value)
	return protowire.AppendBytes(protowire.AppendTag(b, daprStates, protowire.BytesType), item)
}

// daprValue is the size of the value of a GetStateResponse.
type daprValue struct{ size int }

// Reset implements what codec.V2 asks for.
func (v *daprValue) Reset() { v.size = 0 }

// UnmarshalVT implements what codec.V2 asks for.
func (v *daprValue) UnmarshalVT(data []byte) error {
	return codec.Fields(data, func(field protowire.Number, value []byte, _ uint64) error {
		if field == daprStateValue && value != nil {
			v.size = len(value)
		}
		return nil
	})
}

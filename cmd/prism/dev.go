package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/namespace"
)

func devCommand() *cobra.Command {
	f := new(serverFlags)
	var dataDir string
	var ephemeral bool
	c := &cobra.Command{
		Use:   "dev [FILE...]",
		Short: "Run everything in one process, with a namespace to try",
		Long: `Dev runs a proxy on embedded defaults: the namespace "demo" is there from the
start, open to everyone on this machine; its data is kept in a SQLite file below
--data-dir, its messages by an embedded NATS server with JetStream. Documents in
files are served beside it.

Every flag can be given as PRISM_<NAME> in the environment, such as
PRISM_GRPC_ADDR.`,
		Example: "  prism dev\n  prism dev --ephemeral --grpc-addr 127.0.0.1:0 --http-addr 127.0.0.1:0 --ops-addr 127.0.0.1:0",
		PreRunE: fromEnvironment,
		RunE: func(c *cobra.Command, args []string) error {
			return dev(c, f, args, dataDir, ephemeral)
		},
	}
	f.add(c.Flags(), 0)
	c.Flags().StringVar(&dataDir, "data-dir", ".prism", "folder for data and for what prismctl needs to find this server")
	c.Flags().BoolVar(&ephemeral, "ephemeral", false, "keep data in memory only")
	return c
}

func dev(c *cobra.Command, f *serverFlags, args []string, dataDir string, ephemeral bool) error {
	began := time.Now()
	level, err := parseLevel(f.logLevel)
	if err != nil {
		return err
	}
	log, starting := devLogger(level)
	if dataDir, err = filepath.Abs(dataDir); err != nil {
		return err
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	documents := devInMemory
	var b *broker
	if !ephemeral {
		if b, err = startBroker(dataDir, log); err != nil {
			return err
		}
		defer b.stop()
		documents = fmt.Sprintf(devOnDisk, b.url, b.credentials)
	}
	s, err := newServer(c.Context(), f, log)
	if err != nil {
		return err
	}
	base := []namespace.File{{Name: "prism dev", Dir: dataDir, Data: []byte(documents + devDemo)}}
	if err := s.load(base, args); err != nil {
		return err
	}
	if err := s.proxy.Ping(c.Context(), devBackend); err != nil {
		return fmt.Errorf("the data in %s cannot be served: %w", dataDir, err)
	}
	go s.reload(c.Context(), base, args)
	here := filepath.Join(dataDir, "dev.json")
	defer os.Remove(here) //nolint:errcheck // prismctl finds out that nobody answers
	return s.run(c.Context(), func() {
		err := errors.Join(writeReady(here, s.addrs), welcome(c.OutOrStdout(), s.addrs, b, dataDir, time.Since(began)))
		if err != nil {
			log.Warn("could not tell where this server is", "error", err)
		}
		starting.Set(level)
	})
}

// devLogger writes for the person before the terminal. Until the server is
// ready it only warns: the welcome says the rest.
func devLogger(level slog.Level) (*slog.Logger, *slog.LevelVar) {
	current := new(slog.LevelVar)
	current.Set(level)
	if level == slog.LevelInfo {
		current.Set(slog.LevelWarn)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{
		Level: current,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				a.Value = slog.StringValue(a.Value.Time().Format(time.TimeOnly))
			}
			return a
		},
	})), current
}

// devBackend is the embedded backend of what is no message.
const devBackend = "local"

// What prism dev serves by itself. The broker of this process fills the url and
// the credentials.
const (
	devOnDisk = `kind: Backend
name: local
driver: sqlite
url: sqlite:prism.db
---
kind: Backend
name: broker
driver: nats
url: %s
credentials: %s
---
kind: Namespace
needs: {durability: process}
patterns:
- {name: events, kind: pubsub}
- name: producer
  kind: producer
  slots: {messages-log: {backend: broker}}
  settings: {topics: [{name: "*", partitions: 4}]}
- name: consumer
  kind: consumer
  slots: {messages-log: {backend: broker}}
  settings: {topics: [{name: "*", partitions: 4}]}
`
	devInMemory = `kind: Backend
name: local
driver: memory
url: "memory:"
---
kind: Namespace
needs: {durability: none}
patterns: [{name: events, kind: pubsub}]
topics: [{name: "*", partitions: 4}]
`
	devDemo = `name: demo
description: there from the start, to try Prism with
stores: [data]
queues: [{name: "*"}]
auth: {anonymous: read_write}
`
)

// welcome says what there is and what to try. Without a broker everything is in
// memory.
func welcome(w io.Writer, a addresses, b *broker, dataDir string, took time.Duration) error {
	kept := "in memory only"
	if b != nil {
		kept = shown(dataDir) + ", messages by " + b.url
	}
	base := "http://" + a.HTTP + "/v1/namespaces/demo/keyvalue"
	text := `Prism is ready (` + took.Round(time.Millisecond).String() + `).

  gRPC   ` + a.GRPC + `
  HTTP   http://` + a.HTTP + `
  ops    http://` + a.Ops + `/readyz
  data   ` + kept + `

Try:
  curl -X PUT --data hello ` + base + `/greeting
  curl ` + base + `/greeting
  ` + prismctl() + ` kv ls
  curl --data first http://` + a.HTTP + `/v1/namespaces/demo/topics/orders/messages
  curl -X POST http://` + a.HTTP + `/v1/namespaces/demo/topics/orders/groups/billing:receive
  curl http://` + a.HTTP + `/openapi.json
  grpcurl -plaintext -H 'x-prism-namespace: demo' -d '{"key":"greeting"}' ` + a.GRPC + ` prism.keyvalue.v1.KeyValue/Retrieve

Stop with Ctrl-C.
`
	_, err := io.WriteString(w, text)
	return err
}

// shown is a path as a person would type it here.
func shown(path string) string {
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, path); err == nil && filepath.IsLocal(rel) {
			return "." + string(filepath.Separator) + rel
		}
	}
	return path
}

// prismctl is how to call it here: somebody who has typed no more than "make
// run" has built nothing yet.
func prismctl() string {
	if _, err := exec.LookPath("prismctl"); err == nil {
		return "prismctl"
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "prismctl")
		if _, err := os.Stat(beside); err == nil {
			return shown(beside)
		}
	}
	if _, err := os.Stat("cmd/prismctl/main.go"); err == nil {
		return "go run ./cmd/prismctl"
	}
	return "prismctl"
}

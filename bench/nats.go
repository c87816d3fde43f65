package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// natsVariable holds the folder of a NATS server, which is this program too.
const natsVariable = "PRISM_BENCH_NATS"

// startNATS runs a NATS server with JetStream as a process of its own.
func (b *bench) startNATS(ctx context.Context) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := b.sub("nats")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self) //nolint:gosec,noctx // ourselves; stop ends it
	cmd.Env = append(os.Environ(), natsVariable+"="+dir)
	return start(ctx, cmd, readyFile(filepath.Join(dir, "ready.json")))
}

// serveNATS is the NATS server, if this process was started as one.
func serveNATS() bool {
	dir := os.Getenv(natsVariable)
	if dir == "" {
		return false
	}
	if err := runNATS(dir); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
	return true
}

func runNATS(dir string) error {
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("it is not ready after 10 s")
	}
	ready, err := json.Marshal(addresses{GRPC: s.Addr().String()})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "ready.json")
	if err := os.WriteFile(file+".new", ready, 0o600); err != nil { //nolint:gosec // the run that started us chose the folder
		return err
	}
	if err := os.Rename(file+".new", file); err != nil { //nolint:gosec // likewise
		return err
	}
	s.WaitForShutdown()
	return nil
}

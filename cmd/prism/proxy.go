package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"

	"github.com/prismgw/prism/namespace"
)

func proxyCommand() *cobra.Command {
	f := new(serverFlags)
	c := &cobra.Command{
		Use:   "proxy FILE...",
		Short: "Serve the namespaces of documents",
		Long: `Proxy serves the Backend and Namespace documents of files, or of the .yaml and
.json files of folders. It reads them again when they change and on SIGHUP; a
mistake changes nothing and is logged. Try documents with: prism check FILE

Every flag can be given as PRISM_<NAME> in the environment, such as
PRISM_GRPC_ADDR.`,
		Example: "  prism proxy prism.yaml\n  prism proxy --grpc-addr 0.0.0.0:8980 /etc/prism",
		Args:    cobra.MinimumNArgs(1),
		PreRunE: fromEnvironment,
		RunE: func(c *cobra.Command, args []string) error {
			level, err := parseLevel(f.logLevel)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			s, err := newServer(c.Context(), f, log)
			if err != nil {
				return err
			}
			if err := s.load(nil, args); err != nil {
				return err
			}
			go s.reload(c.Context(), nil, args)
			return s.run(c.Context(), func() {
				log.Info("serving", "grpc", s.addrs.GRPC, "http", s.addrs.HTTP, "ops", s.addrs.Ops)
			})
		},
	}
	f.add(c.Flags(), 5*time.Second)
	return c
}

// settle is how long files have to be left alone before they are read again:
// editors and mounts write in several steps.
const settle = 100 * time.Millisecond

// reload loads the files again when one changes and on SIGHUP.
func (s *server) reload(ctx context.Context, base []namespace.File, paths []string) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	changes, stop := watch(s.log, paths)
	defer stop()
	quiet := time.NewTimer(0)
	quiet.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-changes:
			quiet.Reset(settle)
			continue
		case <-hup:
			asked = true
		case <-quiet.C:
		}
		if !asked && s.unchanged(base, paths) {
			continue // something else in their folder
		}
		if err := s.load(base, paths); err != nil {
			s.log.Error("configuration refused; the one before stays in service", "error", err)
			continue
		}
		s.log.Info("configuration loaded")
	}
}

// watch tells of changes near the paths. It watches folders, since files are
// replaced as often as they are written.
func watch(log *slog.Logger, paths []string) (<-chan struct{}, func()) {
	changes := make(chan struct{}, 1)
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("files are not watched; send SIGHUP after a change", "error", err)
		return changes, func() {}
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			path = filepath.Dir(path)
		}
		if err := w.Add(path); err != nil {
			log.Warn("not watched; send SIGHUP after a change", "path", path, "error", err)
		}
	}
	go func() {
		for range w.Events {
			select {
			case changes <- struct{}{}:
			default: // one is enough
			}
		}
	}()
	return changes, func() { _ = w.Close() } // nothing to lose
}

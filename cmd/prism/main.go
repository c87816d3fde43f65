// Command prism runs Prism's servers and checks documents offline.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	tuneRuntime()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "prism:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	c := &cobra.Command{
		Use:   "prism",
		Short: "One door to your data: a data access gateway",
		Long: `Prism serves data access patterns (KeyValue first) over gRPC and HTTP, on the
backends that the platform chose: memory, SQLite, Redis, PostgreSQL, NATS.

Start with:  prism dev`,
		SilenceUsage: true, SilenceErrors: true,
	}
	c.AddCommand(devCommand(), proxyCommand(), checkCommand(), versionCommand())
	return c
}

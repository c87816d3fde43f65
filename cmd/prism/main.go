// Command prism runs Prism's servers and checks documents offline.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/internal/version"
	"github.com/prismgw/prism/namespace"
)

func main() {
	tuneRuntime()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	started := false // the command line was understood
	c, err := root(&started).ExecuteContextC(ctx)
	if err != nil {
		if !started {
			err = fmt.Errorf("%s; see: %s --help", strings.Join(strings.Fields(err.Error()), " "), c.CommandPath())
		}
		report(os.Stderr, err)
		os.Exit(1)
	}
}

func root(started *bool) *cobra.Command {
	c := &cobra.Command{
		Use:   "prism",
		Short: "One door to your data: a data access gateway",
		Long: `Prism serves data access patterns (KeyValue first) over gRPC and HTTP, on the
backends that the platform chose: memory, SQLite, Redis, PostgreSQL, NATS.`,
		Example: `  prism dev                 try it: everything in one process
  prism check prism.yaml    say what your documents would do
  prism proxy prism.yaml    serve them`,
		Version:      version.Text(),
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) { *started = true },
	}
	c.SetVersionTemplate(version.Line("prism") + "\n")
	c.AddCommand(devCommand(), proxyCommand(), checkCommand(), versionCommand())
	return c
}

// report prints an error. Mistakes in documents begin their lines, so that an
// editor finds the places.
func report(w io.Writer, err error) {
	var documents *namespace.Error
	if !errors.As(err, &documents) {
		fmt.Fprintln(w, "prism:", strings.ReplaceAll(err.Error(), "\n", "\nprism: "))
		return
	}
	count := "a mistake"
	if n := len(documents.Mistakes) + documents.More; n > 1 {
		count = fmt.Sprintf("%d mistakes", n)
	}
	fmt.Fprintf(w, "%v\nprism: the documents have %s; nothing is served\n", documents, count)
}

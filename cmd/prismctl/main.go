// Command prismctl talks to Prism's servers: it reads and writes keys, moves
// data sets in and out, publishes messages and listens to them, consumes those
// that are kept and deals with dead letters, puts tasks into queues and takes
// them out, and says whether a server is well.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/internal/version"
)

// patience is how long a command that was interrupted may take to end: one
// that waits for its input cannot be told.
const patience = time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr) }()
	code := exitInterrupted
	select {
	case code = <-ended:
	case <-ctx.Done():
		select {
		case code = <-ended:
		case <-time.After(patience):
			fmt.Fprintln(os.Stderr, "prismctl: interrupted")
		}
	}
	os.Exit(code)
}

// run runs one command line and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := new(app)
	root := a.root() //nolint:contextcheck // each command gets it from cobra
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !a.started {
		err = usage(err, "see: %s --help", c.CommandPath())
	}
	f := a.explain(ctx, err)
	f.print(errOut, a.output == "json")
	return f.Exit
}

// app is one run of the program.
type app struct {
	settings
	started bool // the command line was understood
}

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "prismctl",
		Short: "Talk to Prism: read and write keys, move data sets, publish and consume",
		Long: `Prismctl talks to Prism's servers. Without a context it takes the "prism dev"
of this directory or one above it (.prism/dev.json), and the namespace "demo".

Every global flag can be given as PRISM_<NAME> in the environment, such as
PRISM_NAMESPACE. A flag wins over the environment, the environment over the
context, the context over the default.

Exit codes:
` + exitHelp(),
		Example: `  prismctl kv put greeting hello
  prismctl kv get greeting
  prismctl kv ls
  prismctl pubsub subscribe 'orders.>'
  prismctl topic consume orders --group billing
  prismctl queue receive mails
  prismctl context set staging --addr proxy.example.com:8980 -n orders`,
		Version:      version.Text(),
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
	}
	c.SetVersionTemplate(version.Line("prismctl") + "\n")
	a.addFlags(c)
	c.AddCommand(a.kvCommand(), a.pubsubCommand(), a.topicCommand(), a.dlqCommand(), a.queueCommand(), a.healthCommand(), a.contextCommand(), versionCommand())
	return c
}

// group is a command that only holds others.
func group(use, short, example string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			names := make([]string, 0, len(verbs))
			for _, v := range verbs {
				names = append(names, v.Name())
			}
			return usage(nil, "say what to do: %s %s", c.CommandPath(), strings.Join(names, "|"))
		},
	}
	c.AddCommand(verbs...)
	return c
}

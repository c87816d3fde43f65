package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
)

func (l *layout) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&l.format, "format", formatJSONL, "jsonl, csv, tsv or lines")
	f.StringVar(&l.delimiter, "delimiter", "", "what stands between columns (default: a comma for csv, otherwise a tab)")
	l.keyColumn = 1
}

func (a *app) exportCommand() *cobra.Command {
	var l layout
	var verbose bool
	c := &cobra.Command{
		Use:   "export [PREFIX]",
		Short: "Write many keys to standard output",
		Long: `Export writes the keys that begin with PREFIX, or all, with their values, as
they come. Import reads what export writes, byte for byte; expiries are kept by
jsonl only, and may shift by the time that an import takes. The format lines writes the values alone, one a line.

Keys come in byte order where the backend has one. What changes during the
export may or may not be in it.`,
		Example: `  prismctl kv export > backup.jsonl
  prismctl kv export cart: --format csv > carts.csv
  prismctl kv export --format lines`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := l.check(); err != nil {
				return err
			}
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				progressTo := c.ErrOrStderr()
				if isTerminal(c.OutOrStdout()) {
					progressTo = io.Discard // the keys themselves are on the screen
				}
				p := startProgress(progressTo, "exported", "keys", 0, verbose)
				defer p.stop()
				w := newRecordWriter(c.OutOrStdout(), l)
				err := each(ctx, kv, first(args), true, 0, func(e *client.Entry) error {
					p.done.Add(1)
					p.bytes.Add(int64(len(e.Key) + len(e.Value)))
					return w.write(e)
				})
				return errors.Join(err, w.out.Flush())
			})
		},
	}
	l.addFlags(c)
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "where there is no terminal, report progress in plain lines")
	return c
}

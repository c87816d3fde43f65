package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

func (a *app) kvCommand() *cobra.Command {
	return group("kv", "Read and write keys",
		`  prismctl kv put greeting hello
  prismctl kv get greeting
  prismctl kv ls
  prismctl kv incr visits
  prismctl kv del greeting visits`,
		a.putCommand(), a.getCommand(), a.delCommand(), a.lsCommand(), a.incrCommand(), a.expireCommand(),
		a.importCommand(), a.exportCommand())
}

// form is the output that the user wants, or else the verb's own.
func (a *app) form(own string) string { return cmp.Or(a.output, own) }

// maxInput is more than any value that a server takes in one call, in bytes.
const maxInput = 6 << 20

func (a *app) putCommand() *cobra.Command {
	var file, ifVersion string
	var ttl time.Duration
	var ifAbsent bool
	c := &cobra.Command{
		Use:   "put KEY [VALUE|-]",
		Short: "Store a value and print its version",
		Long: `Put stores VALUE under KEY, byte for byte; "-" takes the value from standard
input. Without --ttl the key never expires, also if it did before.`,
		Example: `  prismctl kv put greeting hello
  prismctl kv put session:17 active --ttl 30m
  echo '{"items": 3}' | prismctl kv put cart:17 -
  prismctl kv put logo --file /etc/hostname
  prismctl kv put lock mine --if-absent
  prismctl kv put -- temperature -5`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 2) == c.Flags().Changed("file") {
				return usage(nil, "give the value once: as VALUE, as - for standard input, or with --file")
			}
			if ifAbsent && c.Flags().Changed("if-version") {
				return usage(nil, "give --if-absent or --if-version: a key that is absent has no version")
			}
			value, err := readValue(c.InOrStdin(), args[1:], file)
			if err != nil {
				return err
			}
			var opts []client.StoreOption
			if c.Flags().Changed("ttl") {
				opts = append(opts, client.TTL(ttl))
			}
			if c.Flags().Changed("if-version") {
				opts = append(opts, client.IfVersion(ifVersion))
			}
			if ifAbsent {
				opts = append(opts, client.IfAbsent())
			}
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				version, err := kv.Store(ctx, args[0], value, opts...)
				if err != nil {
					return err
				}
				return printOne(c.OutOrStdout(), a.form("raw"), changeRow{Key: args[0], Version: version, plain: version})
			})
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "file", "f", "", "file that holds the value")
	f.DurationVar(&ttl, "ttl", 0, "time to live, such as 30s or 24h (1ms to 10 years)")
	f.StringVar(&ifVersion, "if-version", "", "store only if the key has this version")
	f.BoolVar(&ifAbsent, "if-absent", false, "store only if there is no such key")
	return c
}

func readValue(stdin io.Reader, arg []string, file string) ([]byte, error) {
	in := stdin
	switch {
	case len(arg) > 0 && arg[0] != "-":
		return []byte(arg[0]), nil
	case len(arg) == 0:
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close() //nolint:errcheck // read only
		in = f
	}
	value, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err == nil && len(value) > maxInput {
		return nil, errs.New(errs.PayloadTooLarge, "the value is over the %d bytes that any server takes; split it", maxInput)
	}
	return value, err
}

func (a *app) getCommand() *cobra.Command {
	var withExpiry bool
	c := &cobra.Command{
		Use:   "get KEY",
		Short: "Print a value",
		Long: `Get prints the value byte for byte; only at a terminal it ends the line. The
other forms (-o) show version and expiry too.`,
		Example: `  prismctl kv get greeting
  prismctl kv get greeting -o json
  prismctl kv get session:17 --with-expiry`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				own := "raw"
				if withExpiry {
					own = "table"
				}
				form := a.form(own)
				var opts []client.RetrieveOption
				if withExpiry || form != "raw" {
					opts = append(opts, client.WithExpiry())
				}
				e, err := kv.Retrieve(ctx, args[0], opts...)
				if err != nil {
					return err
				}
				r := newEntryRow(&e)
				r.plain = e.Value
				if isTerminal(c.OutOrStdout()) && !bytes.HasSuffix(e.Value, []byte("\n")) {
					r.plain = append(r.plain, '\n')
				}
				return printOne(c.OutOrStdout(), form, r)
			})
		},
	}
	c.Flags().BoolVar(&withExpiry, "with-expiry", false, "print a table with version and expiry")
	return c
}

func (a *app) delCommand() *cobra.Command {
	var ifVersion string
	c := &cobra.Command{
		Use:     "del KEY...",
		Short:   "Delete keys; absent ones are no error",
		Example: "  prismctl kv del greeting\n  prismctl kv del cart:17 cart:18\n  prismctl kv del lock --if-version \"$version\"",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			conditional := c.Flags().Changed("if-version")
			if conditional && len(args) > 1 {
				return usage(nil, "--if-version goes with one key")
			}
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				if conditional {
					if err := kv.Delete(ctx, args[0], client.IfVersion(ifVersion)); err != nil {
						return err
					}
				} else if err := deleteAll(ctx, kv, args, c.ErrOrStderr()); err != nil {
					return err
				}
				p := newPrinter(c.OutOrStdout(), a.form("raw"), true, changeRow{}.header())
				for _, key := range args {
					if err := p.add(changeRow{Key: key}); err != nil {
						return err
					}
				}
				return p.close()
			})
		},
	}
	c.Flags().StringVar(&ifVersion, "if-version", "", "delete only if the key has this version")
	return c
}

// deleteAll deletes what it can. It tells of each key that failed and returns
// the first error.
func deleteAll(ctx context.Context, kv *client.KeyValue, keys []string, errOut io.Writer) error {
	atOnce := 1000
	var failed []error
	for len(keys) > 0 {
		n := min(len(keys), atOnce)
		var items []client.DeleteItem
		named := map[string]bool{}
		for _, key := range keys[:n] {
			if !named[key] {
				named[key] = true
				items = append(items, client.DeleteItem{Key: key})
			}
		}
		results, err := kv.DeleteBatch(ctx, items)
		if fit := fitting(err); fit > 0 && fit < atOnce {
			atOnce = fit
			continue
		}
		if err != nil {
			return err
		}
		for i, r := range results {
			if r.Err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", cell(items[i].Key), r.Err))
			}
		}
		keys = keys[n:]
	}
	if len(failed) == 0 {
		return nil
	}
	for _, err := range failed[1:] {
		fmt.Fprintln(errOut, "prismctl:", err)
	}
	return failed[0]
}

// fitting returns how many items the namespace's rate limit lets come at once,
// if that is why a batch was refused; else 0.
func fitting(err error) int {
	e := errs.From(err)
	if e == nil || e.Reason != errs.PayloadTooLarge || e.Meta["limit_of"] != "rate" {
		return 0
	}
	n, _ := strconv.Atoi(e.Meta["limit"]) // 0 for what no proxy says
	return n
}

// A changeRow is what is known after a write.
type changeRow struct {
	Key     string `json:"key" yaml:"key"`
	Version string `json:"version,omitempty" yaml:"version,omitempty"`

	plain string // raw
}

func (changeRow) header() []string  { return []string{"KEY", "VERSION"} }
func (r changeRow) cells() []string { return []string{cell(r.Key), r.Version} }

func (r changeRow) raw() []byte {
	if r.plain == "" {
		return nil
	}
	return []byte(r.plain + "\n")
}

func (a *app) lsCommand() *cobra.Command {
	var values bool
	var limit int
	c := &cobra.Command{
		Use:   "ls [PREFIX]",
		Short: "List the keys that begin with a prefix",
		Long: `Ls lists keys as they come, in byte order where the backend has one. Tables
show long or unprintable keys and values shortened and quoted; -o json shows
all of them exactly, -o raw one key a line (with --values: key, tab, value).`,
		Example: "  prismctl kv ls\n  prismctl kv ls cart: --values --limit 20\n  prismctl kv ls -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if limit < 0 {
				return usage(nil, "--limit is 0 (no limit) or more")
			}
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				row := entryRow{short: !values}
				p := newPrinter(c.OutOrStdout(), a.form("table"), true, row.header())
				err := each(ctx, kv, first(args), values, limit, func(e *client.Entry) error { return p.add(listed(e, values)) })
				if err != nil {
					_ = p.out.Flush() // what was found so far; err says that it is not all
					return err
				}
				return p.close()
			})
		},
	}
	c.Flags().BoolVar(&values, "values", false, "with values, versions and expiries")
	c.Flags().IntVar(&limit, "limit", 0, "stop after so many keys")
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func listed(e *client.Entry, values bool) entryRow {
	if !values {
		return entryRow{Key: e.Key, short: true, plain: []byte(e.Key + "\n")}
	}
	r := newEntryRow(e)
	r.plain = append([]byte(e.Key+"\t"), append(e.Value, '\n')...)
	return r
}

// each calls do with every entry once, up to limit unless that is 0.
func each(ctx context.Context, kv *client.KeyValue, prefix string, values bool, limit int, do func(*client.Entry) error) error {
	var opts []client.ScanOption
	if !values {
		opts = append(opts, client.KeysOnly())
	}
	if limit > 0 && limit < 1000 {
		opts = append(opts, client.PageSize(limit))
	}
	var once seen
	n := 0
	for e, err := range kv.Scan(ctx, prefix, opts...) {
		if err != nil {
			return err
		}
		if once.before(e.Key) {
			continue
		}
		if err := do(&e); err != nil {
			return err
		}
		if n++; n == limit {
			return nil
		}
	}
	return nil
}

func (a *app) incrCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "incr KEY [BY]",
		Short:   "Add to a number and print the sum; an absent key counts as 0",
		Example: "  prismctl kv incr visits\n  prismctl kv incr visits 10\n  prismctl kv incr -- visits -1",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			by := int64(1)
			if len(args) == 2 {
				var err error
				if by, err = strconv.ParseInt(args[1], 10, 64); err != nil {
					return usage(nil, "BY is a whole number of 64 bits, not %q", args[1])
				}
			}
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				sum, err := kv.Increment(ctx, args[0], by)
				if err != nil {
					return err
				}
				return printOne(c.OutOrStdout(), a.form("raw"), sumRow{args[0], sum})
			})
		},
	}
}

// A sumRow is a counter.
type sumRow struct {
	Key   string `json:"key" yaml:"key"`
	Value int64  `json:"value" yaml:"value"`
}

func (sumRow) header() []string  { return []string{"KEY", "VALUE"} }
func (r sumRow) cells() []string { return []string{cell(r.Key), strconv.FormatInt(r.Value, 10)} }
func (r sumRow) raw() []byte     { return []byte(strconv.FormatInt(r.Value, 10) + "\n") }

func (a *app) expireCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "expire KEY TTL",
		Short:   "Set the time to live of a key and print when it ends",
		Example: "  prismctl kv expire greeting 1h",
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			ttl, err := time.ParseDuration(args[1])
			if err != nil {
				return usage(nil, "TTL is a duration such as 30s or 24h, not %q", args[1])
			}
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				at, err := kv.Expire(ctx, args[0], ttl)
				if err != nil {
					return err
				}
				return printOne(c.OutOrStdout(), a.form("raw"), expiryRow{args[0], at.UTC()})
			})
		},
	}
}

// An expiryRow is when a key expires.
type expiryRow struct {
	Key     string    `json:"key" yaml:"key"`
	Expires time.Time `json:"expires_at" yaml:"expires_at"`
}

func (expiryRow) header() []string  { return []string{"KEY", "EXPIRES"} }
func (r expiryRow) cells() []string { return []string{cell(r.Key), r.Expires.Format(time.RFC3339)} }
func (r expiryRow) raw() []byte     { return []byte(r.Expires.Format(time.RFC3339Nano) + "\n") }

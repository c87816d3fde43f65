package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/internal/version"
)

const (
	defaultAddr      = "127.0.0.1:8980"
	defaultNamespace = "demo"
	defaultTimeout   = 10 * time.Second
)

var outputs = []string{"table", "json", "yaml", "raw"}

// settings are the global flags; after resolve, they are what holds.
type settings struct {
	addr, namespace, pattern string
	output                   string // empty: what suits the verb
	timeout                  time.Duration
	plaintext                bool
	context                  string

	ops string // of the prism dev that was found
	dev string // its dev.json
}

func (a *app) addFlags(c *cobra.Command) {
	f := c.PersistentFlags()
	f.StringVar(&a.addr, "addr", "", "gRPC address of the server: host:port or unix:PATH (default: the prism dev of this directory, else "+defaultAddr+")")
	f.StringVarP(&a.namespace, "namespace", "n", "", "namespace (default \""+defaultNamespace+"\" if no context is in use)")
	f.StringVarP(&a.pattern, "pattern", "p", "", "pattern, where a namespace has several of a kind")
	f.StringVarP(&a.output, "output", "o", "", "table, json, yaml or raw (default: raw for single values, table for lists)")
	f.DurationVar(&a.timeout, "timeout", defaultTimeout, "time for each call")
	f.BoolVar(&a.plaintext, "plaintext", false, "no TLS to addresses beyond this machine; only for networks that encrypt by themselves")
	f.StringVar(&a.context, "context", "", "context of the configuration file (default: the one in use, see: prismctl context list)")
	complete(c, "output", func() []string { return outputs })
	complete(c, "context", contextNames)
}

// complete names the values that the shell offers for a global flag.
func complete(c *cobra.Command, flag string, values func() []string) {
	_ = c.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values(), cobra.ShellCompDirectiveNoFileComp
	}) // fails only for a flag that there is not
}

// mirrored are the global flags that the environment can give.
var mirrored = []string{"addr", "namespace", "pattern", "output", "timeout", "plaintext", "context"}

// given takes the flags from the environment that were not typed, and checks
// those that have a closed set of values.
func (a *app) given(c *cobra.Command) error {
	f := c.Flags()
	for _, name := range mirrored {
		variable := "PRISM_" + strings.ToUpper(name)
		if v := os.Getenv(variable); v != "" && !f.Changed(name) {
			if err := f.Set(name, v); err != nil {
				return usage(err, "correct %s", variable)
			}
		}
	}
	if a.output != "" && !slices.Contains(outputs, a.output) {
		wrong := a.output
		a.output = ""
		return usage(nil, "-o is one of %s, not %q", strings.Join(outputs, ", "), wrong)
	}
	if a.timeout <= 0 {
		return usage(nil, "--timeout is a positive duration such as 10s")
	}
	return nil
}

// resolve decides what holds: flag, environment, context, default.
func (a *app) resolve(c *cobra.Command) error {
	if err := a.given(c); err != nil {
		return err
	}
	file, err := readConfig()
	if err != nil {
		return err
	}
	a.context = cmp.Or(a.context, file.Current)
	if a.context == "" {
		return a.withoutContext()
	}
	named, f := file.find(a.context), c.Flags()
	if named == nil {
		return usage(nil, "there is no context %q in %s; see: prismctl context list", a.context, configPath())
	}
	for name, value := range named.flags() {
		if value != "" && !f.Changed(name) {
			if err := f.Set(name, value); err != nil {
				return usage(err, "correct the context %s in %s", named.Name, configPath())
			}
		}
	}
	if a.namespace == "" {
		return usage(nil, "the context %s names no namespace; give one with -n", named.Name)
	}
	a.addr = cmp.Or(a.addr, defaultAddr)
	return a.given(c)
}

func (a *app) withoutContext() error {
	a.namespace = cmp.Or(a.namespace, defaultNamespace)
	if a.addr != "" {
		return nil
	}
	path, found, err := findDev()
	if err != nil {
		return err
	}
	a.addr, a.ops, a.dev = cmp.Or(found.GRPC, defaultAddr), found.Ops, path
	return nil
}

// whereFrom says how the address was found, where that may be the mistake.
func (a *app) whereFrom() string {
	if a.dev == "" {
		return ""
	}
	return fmt.Sprintf(" (the address is from %s, whose server has stopped)", a.dev)
}

// devAddresses are what prism dev leaves for prismctl to find it.
type devAddresses struct {
	GRPC string `json:"grpc"`
	Ops  string `json:"ops"`
}

// findDev looks for the prism dev of this directory, then of those above it.
func findDev() (path string, found devAddresses, err error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", found, nil //nolint:nilerr // then it is not found here
	}
	for {
		path = filepath.Join(dir, ".prism", "dev.json")
		data, err := os.ReadFile(path)
		switch {
		case err == nil:
			if err := json.Unmarshal(data, &found); err != nil || found.GRPC == "" {
				return "", found, usage(nil, "%s holds no address; start prism dev again, or give --addr", path)
			}
			return path, found, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", found, usage(err, "give --addr")
		case dir == filepath.Dir(dir):
			return "", found, nil
		}
		dir = filepath.Dir(dir)
	}
}

// kv calls do with the namespace's keys and values.
func (a *app) kv(c *cobra.Command, do func(ctx context.Context, kv *client.KeyValue) error) error {
	return a.dial(c, func(ctx context.Context, conn *client.Client) error { return do(ctx, conn.KeyValue("")) })
}

// dial calls do with a client of the server.
func (a *app) dial(c *cobra.Command, do func(ctx context.Context, conn *client.Client) error) error {
	if err := a.resolve(c); err != nil {
		return err
	}
	opts := []client.Option{
		client.WithNamespace(a.namespace), client.WithPattern(a.pattern),
		client.WithTimeout(a.timeout), client.WithUserAgent("prismctl/" + version.Text()),
	}
	if a.plaintext {
		opts = append(opts, client.WithInsecure())
	}
	conn, err := client.Dial(a.addr, opts...)
	if err != nil {
		return err
	}
	return errors.Join(do(c.Context(), conn), conn.Close())
}

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/namespace"
	"github.com/prismgw/prism/proxy"
)

func checkCommand() *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "check FILE...",
		Short: "Read documents and say what would happen",
		Long: `Check reads Backend and Namespace documents as prism proxy would, and prints
which backend fills each slot, why, and what that guarantees. It connects to
nothing. Every mistake is listed with its file and line, and the exit code is 1.`,
		Example: "  prism check prism.yaml\n  prism check -o json backends.yaml namespaces/*.yaml",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			files, err := readFiles(args)
			if err != nil {
				return err
			}
			plan, err := check(files)
			if err != nil {
				return err
			}
			switch output {
			case "text":
				return plan.Explain(c.OutOrStdout())
			case "json":
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(plan)
			}
			return fmt.Errorf("--output is text or json, not %q", output)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return c
}

// check resolves documents and closes what it opened for that.
func check(files []namespace.File) (*namespace.Plan, error) {
	o := proxy.Options{Drivers: drivers(), Kinds: patterns()}
	catalog := o.Catalog()
	open := catalog.Open
	var conns []driver.Conn
	catalog.Open = func(b *namespace.Backend) (driver.Conn, error) {
		conn, err := open(b)
		if err == nil {
			conns = append(conns, conn)
		}
		return conn, err
	}
	defer func() {
		for _, conn := range conns {
			_ = conn.Close() // nothing was done with it
		}
	}()
	_, plan, err := namespace.Load(catalog, files...)
	return plan, err
}

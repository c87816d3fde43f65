package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

// probe is a key that is asked for to see whether a namespace answers.
const probe = "prismctl:health"

func (a *app) healthCommand() *cobra.Command {
	var ops string
	c := &cobra.Command{
		Use:   "health",
		Short: "Say whether the server and the namespace answer",
		Long: `Health reads one key of the namespace, through the server to its backend. With
the address of the operations listener (--ops; of a prism dev it is known) it
lists every backend too. The exit code is 0 only if all of them are well.`,
		Example: "  prismctl health\n  prismctl health -n orders --ops 127.0.0.1:8982 -o json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				begun := time.Now()
				_, err := kv.Exists(ctx, probe)
				rows := []healthRow{a.namespaceHealth(err, time.Since(begun))}
				if ops == "" {
					ops = a.ops
				}
				if ops != "" {
					backends, opsErr := a.backendHealth(ctx, ops)
					rows = append(rows, backends...)
					err = errors.Join(err, opsErr)
				}
				p := newPrinter(c.OutOrStdout(), a.form("table"), true, healthRow{}.header())
				for _, r := range rows {
					if err := p.add(r); err != nil {
						return err
					}
				}
				return errors.Join(err, p.close())
			})
		},
	}
	c.Flags().StringVar(&ops, "ops", "", "operations address of the server: host:port")
	return c
}

// A healthRow is one thing that is well or not.
type healthRow struct {
	What   string `json:"what" yaml:"what"`
	Ready  bool   `json:"ready" yaml:"ready"`
	Detail string `json:"detail,omitempty" yaml:"detail,omitempty"`
}

func (healthRow) header() []string { return []string{"WHAT", "READY", "DETAIL"} }

func (r healthRow) cells() []string {
	ready := "no"
	if r.Ready {
		ready = "yes"
	}
	return []string{r.What, ready, r.Detail}
}

func (r healthRow) raw() []byte { return []byte(strings.Join(r.cells(), "\t") + "\n") }

func (a *app) namespaceHealth(err error, took time.Duration) healthRow {
	r := healthRow{What: "namespace " + a.namespace, Ready: err == nil, Detail: fmt.Sprintf("%s answered in %s", a.addr, took.Round(time.Microsecond))}
	if err != nil {
		r.Detail = oneLine(err.Error())
	}
	return r
}

// backendHealth asks an operations listener about all backends.
func (a *app) backendHealth(ctx context.Context, addr string) ([]healthRow, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var ready struct {
		Ready    bool
		Draining bool
		Backends []struct {
			Name           string
			Ready          bool
			Reason, Detail string
		}
	}
	if err := getJSON(ctx, "http://"+addr+"/readyz", &ready); err != nil {
		err = errs.Wrap(err, errs.BackendUnavailable, "the operations listener at %s does not answer", addr)
		return []healthRow{{What: "operations", Detail: oneLine(err.Error())}}, err
	}
	server := healthRow{What: "server", Ready: ready.Ready}
	if ready.Draining {
		server.Detail = "draining"
	}
	rows := []healthRow{server}
	well := ready.Ready
	for _, b := range ready.Backends {
		rows = append(rows, healthRow{"backend " + b.Name, b.Ready, oneLine(b.Reason + " " + b.Detail)})
		well = well && b.Ready
	}
	if !well {
		return rows, errs.New(errs.BackendUnavailable, "not everything is ready")
	}
	return rows, nil
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

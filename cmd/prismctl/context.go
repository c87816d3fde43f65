package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) contextCommand() *cobra.Command {
	return group("context", "Keep the addresses and namespaces that you use under names",
		`  prismctl context set staging --addr proxy.example.com:8980 -n orders
  prismctl context use staging
  prismctl context use none`,
		a.contextListCommand(), a.contextUseCommand(), a.contextSetCommand(), a.contextShowCommand(), a.contextDeleteCommand())
}

// noContext, as a name, means to use none.
const noContext = "none"

// A contextRow is a context as lists show it.
type contextRow struct {
	*contextConfig `yaml:",inline"`
	Current        bool `json:"current" yaml:"current"`
}

func (contextRow) header() []string {
	return []string{"CURRENT", "NAME", "ADDR", "NAMESPACE", "PATTERN", "OUTPUT", "TIMEOUT", "PLAINTEXT"}
}

func (r contextRow) cells() []string {
	mark, plain := "", ""
	if r.Current {
		mark = "*"
	}
	if r.Plaintext {
		plain = "yes"
	}
	return []string{mark, r.Name, r.Addr, r.Namespace, r.Pattern, r.Output, r.Timeout, plain}
}

func (r contextRow) raw() []byte { return []byte(r.Name + "\n") }

func (a *app) contextListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the contexts", Args: cobra.NoArgs, Example: "  prismctl context list",
		RunE: func(c *cobra.Command, _ []string) error {
			return a.printContexts(c, true, func(*config, *contextConfig) bool { return true })
		},
	}
}

func (a *app) contextShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "Show a context, or the one in use", Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeContext,
		Example: "  prismctl context show\n  prismctl context show staging -o yaml",
		RunE: func(c *cobra.Command, args []string) error {
			file, err := readConfig()
			if err != nil {
				return err
			}
			name := file.Current
			if len(args) > 0 {
				name = args[0]
			}
			if name == "" {
				return usage(nil, "no context is in use; see: prismctl context list")
			}
			if file.find(name) == nil {
				return unknownContext(name)
			}
			return a.printContexts(c, false, func(_ *config, one *contextConfig) bool { return one.Name == name })
		},
	}
}

func (a *app) printContexts(c *cobra.Command, list bool, want func(*config, *contextConfig) bool) error {
	output := c.Flag("output")
	if err := a.given(c); err != nil {
		return err
	}
	file, err := readConfig()
	if err != nil {
		return err
	}
	p := newPrinter(c.OutOrStdout(), cmp.Or(output.Value.String(), "table"), list, contextRow{}.header())
	for _, one := range file.Contexts {
		if want(file, one) {
			if err := p.add(contextRow{one, one.Name == file.Current}); err != nil {
				return err
			}
		}
	}
	return p.close()
}

func (a *app) contextUseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: `Use a context from now on; "none" uses none`, Args: cobra.ExactArgs(1), ValidArgsFunction: completeContext,
		Example: "  prismctl context use staging\n  prismctl context use none",
		RunE: func(_ *cobra.Command, args []string) error {
			return change(func(file *config) error {
				if args[0] == noContext {
					file.Current = ""
					return nil
				}
				if file.find(args[0]) == nil {
					return unknownContext(args[0])
				}
				file.Current = args[0]
				return nil
			})
		},
	}
}

func (a *app) contextSetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "set NAME", Short: "Create a context or change it, from the global flags", Args: cobra.ExactArgs(1), ValidArgsFunction: completeContext,
		Long: `Set keeps the global flags that are given (--addr, -n, -p, -o, --timeout,
--plaintext) under a name. What is not given stays as it is.`,
		Example: "  prismctl context set staging --addr proxy.example.com:8980 -n orders",
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] == noContext || strings.TrimSpace(args[0]) == "" {
				return usage(nil, "%q cannot be the name of a context", args[0])
			}
			typed := c.Flags().Changed
			return change(func(file *config) error {
				one := file.find(args[0])
				if one == nil {
					one = &contextConfig{Name: args[0]}
					file.Contexts = append(file.Contexts, one)
				}
				return a.keep(one, typed)
			})
		},
	}
}

// keep takes the flags that were typed over into a context.
func (a *app) keep(one *contextConfig, typed func(string) bool) error {
	if a.output != "" && !slices.Contains(outputs, a.output) {
		return usage(nil, "-o is one of %s, not %q", strings.Join(outputs, ", "), a.output)
	}
	for name, to := range map[string]struct {
		field *string
		value string
	}{
		"addr": {&one.Addr, a.addr}, "namespace": {&one.Namespace, a.namespace}, "pattern": {&one.Pattern, a.pattern},
		"output": {&one.Output, a.output}, "timeout": {&one.Timeout, a.timeout.String()},
	} {
		if typed(name) {
			*to.field = to.value
		}
	}
	if typed("plaintext") {
		one.Plaintext = a.plaintext
	}
	return nil
}

func (a *app) contextDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a context", Args: cobra.ExactArgs(1), ValidArgsFunction: completeContext,
		Example: "  prismctl context delete staging",
		RunE: func(_ *cobra.Command, args []string) error {
			return change(func(file *config) error {
				one := file.find(args[0])
				if one == nil {
					return unknownContext(args[0])
				}
				file.Contexts = slices.DeleteFunc(file.Contexts, func(c *contextConfig) bool { return c == one })
				if file.Current == args[0] {
					file.Current = ""
				}
				return nil
			})
		},
	}
}

// change reads the configuration file, changes it and writes it back.
func change(do func(*config) error) error {
	file, err := readConfig()
	if err != nil {
		return err
	}
	if err := do(file); err != nil {
		return err
	}
	return file.write()
}

func unknownContext(name string) error {
	return usage(nil, "there is no context %q in %s; see: prismctl context list", name, configPath())
}

func contextNames() []string {
	file, err := readConfig()
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(file.Contexts))
	for _, one := range file.Contexts {
		names = append(names, one.Name)
	}
	return names
}

func completeContext(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return contextNames(), cobra.ShellCompDirectiveNoFileComp
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/internal/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of prism", Args: cobra.NoArgs, Example: "  prism version",
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), version.Line("prism"))
			return err
		},
	}
}

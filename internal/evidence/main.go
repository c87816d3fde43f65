// Command evidence runs the commands of docs/evidence.md, the table that says
// what shows that each promise is kept, and fails if one of them does.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	file := flag.String("file", "docs/evidence.md", "the table of items, tests and commands")
	only := flag.String("only", "", "run only the commands of rows that contain this text")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	failed, err := run(ctx, os.Stdout, *file, *only)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "evidence:", err)
		os.Exit(2)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

// run runs every command once, in the order of the table, and returns how many
// failed.
func run(ctx context.Context, w io.Writer, file, only string) (failed int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	commands, err := extract(string(text), only)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	for _, command := range commands {
		start := time.Now()
		out, why := execute(ctx, command)
		took := time.Since(start).Round(100 * time.Millisecond)
		if why == "" {
			fmt.Fprintf(w, "ok    %7s  %s\n", took, command)
			continue
		}
		failed++
		fmt.Fprintf(w, "FAIL  %7s  %s: %s\n%s\n", took, command, why, out)
	}
	fmt.Fprintf(w, "%d of %d commands passed\n", len(commands)-failed, len(commands))
	return failed, ctx.Err()
}

// execute runs one command in a shell and says why it failed; that is empty if
// it passed. A command that ran no test at all has shown nothing.
func execute(ctx context.Context, command string) (out, why string) {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", command) //nolint:gosec // commands of our own document
	raw, err := cmd.CombinedOutput()
	out = string(raw)
	switch {
	case err != nil:
		return out, err.Error()
	case strings.Contains(out, "no tests to run") && !strings.Contains(out, "--- PASS"):
		return out, "it ran no test"
	}
	return out, ""
}

var (
	separator = regexp.MustCompile(`^\|[-| :]+\|$`)
	quoted    = regexp.MustCompile("`([^`]+)`")
)

// extract returns the commands in the last column of each table, each once. In
// a table a pipe is written \|.
func extract(text, only string) ([]string, error) {
	lines := strings.Split(text, "\n")
	var commands []string
	for i, line := range lines {
		header := i+1 < len(lines) && separator.MatchString(strings.TrimSpace(lines[i+1]))
		row := strings.TrimSpace(line)
		if !strings.HasPrefix(row, "|") || header || separator.MatchString(row) || !strings.Contains(row, only) {
			continue
		}
		cells := strings.Split(strings.ReplaceAll(strings.Trim(row, "|"), `\|`, "\x00"), "|")
		found := quoted.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if len(found) == 0 {
			return nil, fmt.Errorf("line %d names no command in its last column", i+1)
		}
		for _, match := range found {
			if command := strings.ReplaceAll(match[1], "\x00", "|"); !slices.Contains(commands, command) {
				commands = append(commands, command)
			}
		}
	}
	if len(commands) == 0 {
		return nil, fmt.Errorf("no row of a table contains %q", cmp.Or(only, "a command"))
	}
	return commands, nil
}

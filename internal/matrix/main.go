// Command matrix writes docs/backends.md: what each backend can do and promises,
// as the drivers say it and as the conformance suites found it.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
)

const document = "docs/backends.md"

func main() {
	from := flag.String("from", "", "`folder` with the results of a run (PRISM_MATRIX_DIR); what is missing in it or older than the code is run; empty runs everything")
	check := flag.Bool("check", false, "write nothing; exit 1 if "+document+" is not what the results give")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	same, err := run(ctx, os.Stdout, *from, *check)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(2)
	}
	if !same {
		os.Exit(1)
	}
}

// run writes the page, or compares it and reports whether it is the same.
func run(ctx context.Context, w io.Writer, from string, check bool) (same bool, err error) {
	mend := "go run ./internal/matrix"
	if from == "" {
		if from, err = os.MkdirTemp("", "prism-matrix-"); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(from)) }()
	} else {
		mend += " -from " + from
	}
	runs, err := collect(ctx, os.Stderr, ".", from)
	if err != nil {
		return false, err
	}
	text, err := page(technologies(), runs) //nolint:contextcheck // no driver is opened
	if err != nil {
		return false, err
	}
	if check {
		return compare(ctx, w, document, text, mend)
	}
	return true, os.WriteFile(document, text, 0o644) //nolint:gosec // a page that everybody may read
}

// compare reports whether a file holds text. If it does not, it prints the
// difference and the command that mends it.
func compare(ctx context.Context, w io.Writer, file string, text []byte, mend string) (same bool, err error) {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if bytes.Equal(old, text) {
		return true, nil
	}
	name := file
	if err != nil {
		file = os.DevNull
	}
	diff := exec.CommandContext(ctx, "diff", "-u", "--label", name, "--label", "the results", file, "-") //nolint:gosec // our own page
	diff.Stdin, diff.Stdout, diff.Stderr = bytes.NewReader(text), w, w
	var exit *exec.ExitError
	if err := diff.Run(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return false, fmt.Errorf("diff: %w", err)
	}
	fmt.Fprintf(w, "%s is not what the conformance run gives; run: %s\n", name, mend)
	return false, nil
}

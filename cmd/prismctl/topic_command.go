package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/prismgw/prism/client"
)

// A command is a program that handles messages, one in each run.
type command struct {
	words       []string
	out, errOut io.Writer
	asJSON      bool // it reads all of the message, not the payload alone
}

// killAfter is how long a program that is asked to end may take: less than
// prismctl itself.
const killAfter = patience / 2

// run handles one message. One for which the program exits with another code
// than 0 has failed; if it cannot be run at all, none has.
func (x *command) run(ctx context.Context, d *client.Delivery) error {
	m := deliveredMessage(d)
	input := d.Payload()
	if x.asJSON {
		line, err := m.json()
		if err != nil {
			return err
		}
		input = append(line, '\n')
	}
	c := exec.CommandContext(ctx, x.words[0], x.words[1:]...) //nolint:gosec // it is the user's own command
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(input), x.out, x.errOut
	c.Env = append(os.Environ(),
		"PRISM_MESSAGE_ID="+d.Envelope.GetMetadata().GetMessageId(),
		"PRISM_MESSAGE_ATTEMPT="+strconv.Itoa(d.Attempt), "PRISM_MESSAGE_PLACE="+m.place())
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = killAfter
	err := c.Run()
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = nil // it said that it has done its work; something that it started goes on
	}
	var failed *exec.ExitError
	if err == nil || errors.As(err, &failed) || ctx.Err() != nil {
		return err
	}
	return &unable{err}
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// What one call publishes at most: less than servers take.
const (
	maxBatchMessages = 1000
	maxBatchBytes    = 3 << 20
)

// A linePublisher publishes the lines of a file, in their order.
type linePublisher struct {
	topics   *client.Topics
	topic    string
	opts     []envelope.Option
	progress *progress
	atOnce   int // messages of a call, as far as the namespace's rate lets them

	published, duplicates, refused int64
	first                          error // of the lines that were refused
}

func (a *app) publishLines(c *cobra.Command, l *linePublisher, from []string, verbose bool) error {
	name, isFile := strings.CutPrefix(first(from), "@")
	if !isFile && name != "-" {
		return usage(nil, "--lines reads @FILE, or - for standard input")
	}
	in, size, err := openInput(c.InOrStdin(), name)
	if err != nil {
		return err
	}
	defer in.Close()
	return a.topics(c, func(ctx context.Context, t *client.Topics) error {
		l.topics, l.atOnce = t, maxBatchMessages
		l.progress = startProgress(c.ErrOrStderr(), "published", "messages", size, verbose)
		err := l.run(ctx, bufio.NewReaderSize(l.progress.count(in), 256<<10))
		l.progress.stop()
		row := linesRow{l.published, l.duplicates, l.refused, l.progress.elapsed().Seconds()}
		return errors.Join(err, printOne(c.OutOrStdout(), a.form("raw"), row))
	})
}

// A line is a message that is not published yet.
type line struct {
	number  int
	message *envelopev1.PrismEnvelope
}

// run publishes all lines, many at once.
func (l *linePublisher) run(ctx context.Context, in *bufio.Reader) error {
	var batch []line
	bytes := 0
	for number := 1; ; number++ {
		text, err := l.next(in, number)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return err
		}
		if len(text) > 0 {
			m := l.topics.Message(l.topic, text, l.opts...)
			batch = append(batch, line{number, m})
			bytes += m.SizeVT()
		}
		if len(batch) > 0 && (end || len(batch) >= l.atOnce || bytes >= maxBatchBytes-envelope.MaxSize) {
			if err := l.publish(ctx, batch); err != nil {
				return err
			}
			batch, bytes = nil, 0
		}
		if end {
			return l.refusal()
		}
	}
}

// next returns the bytes of the next line without its end, nothing for one that
// is blank or refused.
func (l *linePublisher) next(in *bufio.Reader, number int) ([]byte, error) {
	var text []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(text) <= envelope.MaxSize {
			text = append(text, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
		switch {
		case len(text) > envelope.MaxSize:
			l.refuse(number, errs.TooLarge("line", len(text), envelope.MaxSize))
			text = nil
		case len(bytes.TrimSpace(text)) == 0:
			text = nil
		}
		return text, err
	}
}

// publish publishes lines, in one call if the namespace's rate allows. What
// passes by itself is waited for, if anything was published before: the ids stay
// the same, so that topics which suppress duplicates have each once.
func (l *linePublisher) publish(ctx context.Context, batch []line) error {
	for try := 1; len(batch) > 0; try++ {
		n := min(len(batch), l.atOnce)
		messages := make([]*envelopev1.PrismEnvelope, n)
		for i := range messages {
			messages[i] = batch[i].message
		}
		results, err := l.topics.PublishBatch(ctx, l.topic, messages)
		if fit := fitting(err); fit > 0 && fit < l.atOnce {
			l.atOnce = fit
			continue
		}
		if err != nil {
			if !l.again(ctx, err, try) {
				return err
			}
			continue
		}
		left, failed := l.outcomes(batch[:n], results)
		if len(left) < n {
			try = 0
		}
		batch = append(left, batch[n:]...)
		if failed != nil && !l.again(ctx, failed, try+1) {
			return failed
		}
	}
	return nil
}

// outcomes counts what has become of lines, and returns those that may yet be
// published, with why they are not.
func (l *linePublisher) outcomes(batch []line, results []client.PublishResult) (left []line, failed error) {
	for i, r := range results {
		switch {
		case r.Err == nil:
			l.published++
			l.progress.done.Add(1)
			if r.Duplicate {
				l.duplicates++
			}
		case faultOfRecord(r.Err):
			l.refuse(batch[i].number, r.Err)
		default:
			left, failed = append(left, batch[i]), r.Err
		}
	}
	return left, failed
}

// again waits until it is time to try again, and says whether it is worthwhile.
func (l *linePublisher) again(ctx context.Context, err error, try int) bool {
	if try >= maxTries || l.published == 0 || errs.ReasonOf(err).Retry() == errs.RetryNever && !errors.Is(err, errs.OutcomeUnknown) {
		return false
	}
	select {
	case <-time.After(max(errs.From(err).Delay(), 200*time.Millisecond)):
		return true
	case <-ctx.Done():
		return false
	}
}

// faultOfRecord reports whether an error is the fault of what was to be stored
// or published, so that the next one may do better.
func faultOfRecord(err error) bool {
	switch errs.ReasonOf(err) { //nolint:exhaustive // the others are no fault of the record
	case errs.InvalidKey, errs.InvalidField, errs.PayloadTooLarge, errs.WrongType:
		return true
	}
	return false
}

func (l *linePublisher) refuse(number int, err error) {
	refused := &recordError{number, err}
	if l.first == nil {
		l.first = refused
	}
	l.refused++
	switch {
	case l.refused <= maxReports:
		l.progress.report(fmt.Sprintf("%s (%s)", oneLine(refused.Error()), errs.ReasonOf(err).String()))
	case l.refused == maxReports+1:
		l.progress.report("more lines are refused and not listed")
	}
}

// refusal is the error of a file of which all but some lines were published.
func (l *linePublisher) refusal() error {
	if l.first == nil {
		return nil
	}
	return refusal(l.first, l.refused, "lines")
}

// A linesRow says what became of the lines of a file.
type linesRow struct {
	Published  int64   `json:"published" yaml:"published"`   // with the duplicates
	Duplicates int64   `json:"duplicates" yaml:"duplicates"` // that stood there already
	Refused    int64   `json:"refused" yaml:"refused"`
	Seconds    float64 `json:"seconds" yaml:"seconds"`
}

func (linesRow) header() []string { return []string{"PUBLISHED", "DUPLICATES", "REFUSED", "SECONDS"} }

func (r linesRow) cells() []string {
	return []string{strconv.FormatInt(r.Published, 10), strconv.FormatInt(r.Duplicates, 10), strconv.FormatInt(r.Refused, 10), fmt.Sprintf("%.2f", r.Seconds)}
}

func (r linesRow) raw() []byte {
	text := fmt.Sprintf("%d messages published in %.1fs (%.0f/s)", r.Published, r.Seconds, float64(r.Published)/max(r.Seconds, 0.001))
	if r.Duplicates > 0 {
		text += fmt.Sprintf(", %d of them stood there already", r.Duplicates)
	}
	if r.Refused > 0 {
		text += fmt.Sprintf(", %d refused", r.Refused)
	}
	return []byte(text + "\n")
}

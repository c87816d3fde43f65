package main

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/errs"
)

func (a *app) importCommand() *cobra.Command {
	var l layout
	var verbose bool
	im := &importer{calls: 128}
	c := &cobra.Command{
		Use:   "import FILE|-",
		Short: "Store many keys from a file",
		Long: `Import stores every record of FILE, or of standard input, many at once. If a
key stands there twice, the last one wins. Blank lines are left out.

  jsonl  {"key": "a", "value": "text"}, one object a line; "value_base64" for
         bytes that are no UTF-8, "expires_at" for keys that expire
  csv    columns, quoted as in RFC 4180; the value is column 2, or see --value
  tsv    the same with tabs
  lines  a record is a line, split at --delimiter, nothing is quoted; the value
         is the whole line, or see --value

Records that are refused are reported with their line, and the others are
stored all the same; the exit code is that of the first one. Anything else that
fails, such as a server that goes away and stays away, ends the import. It can
be repeated.`,
		Example: `  prismctl kv import data.jsonl
  prismctl kv export cart: | prismctl kv import - -n staging
  prismctl kv import --format csv --skip 1 users.csv
  prismctl kv import --format lines --delimiter ';' /usr/share/unicode/UnicodeData.txt`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := errors.Join(l.check(), im.check(c.Flags().Changed("ttl"))); err != nil {
				return err
			}
			in, size, err := openInput(c.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			return a.kv(c, func(ctx context.Context, kv *client.KeyValue) error {
				im.kv = kv
				im.progress = startProgress(c.ErrOrStderr(), "imported", "keys", size, verbose)
				err := im.run(ctx, newRecordReader(im.progress.count(in), l))
				im.progress.stop()
				return errors.Join(err, printOne(c.OutOrStdout(), a.form("raw"), im.summary()))
			})
		},
	}
	f := c.Flags()
	l.addFlags(c)
	f.IntVar(&l.keyColumn, "key-column", 1, "column of the key, from 1")
	f.StringVar(&l.valueColumn, "value", "", `the value: the number of a column, "line" (all of it) or "rest" (all but the key)`)
	f.IntVar(&l.skip, "skip", 0, "leave out so many records at the beginning, such as a header")
	f.DurationVar(&im.ttl, "ttl", 0, "time to live of records that name none")
	f.IntVar(&im.calls, "concurrency", im.calls, "calls under way at once")
	f.BoolVarP(&verbose, "verbose", "v", false, "where there is no terminal, report progress in plain lines")
	return c
}

// openInput opens a file, or standard input for "-"; size is 0 if nobody knows it.
func openInput(stdin io.Reader, name string) (in io.ReadCloser, size int64, err error) {
	if name == "-" {
		return io.NopCloser(stdin), 0, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return f, size, nil
}

// An importer stores records concurrently. Records of one key take the same
// lane, so that the last one wins.
type importer struct {
	kv       *client.KeyValue
	ttl      time.Duration
	calls    int
	progress *progress
	room     room

	stored, expired atomic.Int64

	mu      sync.Mutex // guards the rest
	refused int64
	first   error // of the records that were refused
}

func (im *importer) check(ttlGiven bool) error {
	switch {
	case im.calls < 1 || im.calls > 4096:
		return usage(nil, "--concurrency is 1 to 4096")
	case ttlGiven && im.ttl < time.Millisecond:
		return usage(nil, "--ttl is 1ms or more")
	}
	return nil
}

// maxAhead is how many bytes of values are held at once.
const maxAhead = 64 << 20

// run imports everything that r has.
func (im *importer) run(parent context.Context, r *recordReader) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	im.room.init(maxAhead)
	lanes := make([]chan record, im.calls)
	var working sync.WaitGroup
	for i := range lanes {
		lane := make(chan record, 1)
		lanes[i] = lane
		working.Go(func() {
			for rec := range lane {
				im.do(ctx, cancel, rec)
				im.room.leave(len(rec.value))
			}
		})
	}
	err := im.read(ctx, r, lanes)
	for _, lane := range lanes {
		close(lane)
	}
	working.Wait()
	switch {
	case parent.Err() != nil:
		return errs.From(parent.Err())
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case im.refused > 0:
		return refusal(im.first, im.refused, "records")
	}
	return nil
}

// read hands the records to the lanes.
func (im *importer) read(ctx context.Context, r *recordReader, lanes []chan record) error {
	seed := maphash.MakeSeed()
	for {
		rec, err := r.next()
		var bad *recordError
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &bad):
			im.refuse(bad)
			continue
		case err != nil:
			return err
		}
		im.room.enter(len(rec.value))
		select {
		case lanes[maphash.String(seed, rec.key)%uint64(len(lanes))] <- rec:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// do stores one record, or says why not.
func (im *importer) do(ctx context.Context, cancel context.CancelCauseFunc, rec record) {
	if ctx.Err() != nil {
		return
	}
	ttl := im.ttl
	if !rec.expires.IsZero() {
		if ttl = time.Until(rec.expires); ttl < time.Millisecond {
			im.expired.Add(1)
			return
		}
	}
	err := im.store(ctx, rec, ttl)
	if err != nil && faultOfRecord(err) {
		im.refuse(&recordError{rec.line, err})
		return
	}
	if err != nil {
		cancel(err)
		return
	}
	im.stored.Add(1)
	im.progress.done.Add(1)
}

// maxTries is how often a record is tried while the server has trouble.
const maxTries = 10

// store stores a record. The same value may be stored twice, so whatever
// passes by itself is waited for; but only if anything was stored before.
func (im *importer) store(ctx context.Context, rec record, ttl time.Duration) error {
	var opts []client.StoreOption
	if ttl > 0 {
		opts = append(opts, client.TTL(ttl))
	}
	for try := 1; ; try++ {
		_, err := im.kv.Store(ctx, rec.key, rec.value, opts...)
		if err == nil || try == maxTries || im.stored.Load() == 0 || errs.ReasonOf(err).Retry() == errs.RetryNever || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(max(errs.From(err).Delay(), 200*time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// maxReports is how many refused records are reported one by one.
const maxReports = 20

func (im *importer) refuse(err *recordError) {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.first == nil {
		im.first = err
	}
	im.refused++
	switch {
	case im.refused <= maxReports:
		im.progress.report(fmt.Sprintf("%s (%s)", oneLine(err.Error()), errs.ReasonOf(err).String()))
	case im.refused == maxReports+1:
		im.progress.report("more records are refused and not listed")
	}
}

// refusal is the error of what was done but for some records.
func refusal(first error, refused int64, what string) error {
	e := *errs.From(first)
	e.Message = fmt.Sprintf("%d %s were refused, the first one: %s", refused, what, first)
	e.Fields = nil
	return &e
}

func (im *importer) summary() importRow {
	im.mu.Lock()
	defer im.mu.Unlock()
	return importRow{im.stored.Load(), im.refused, im.expired.Load(), im.progress.elapsed().Seconds()}
}

// An importRow says what an import did.
type importRow struct {
	Imported int64   `json:"imported" yaml:"imported"`
	Refused  int64   `json:"refused" yaml:"refused"`
	Expired  int64   `json:"expired" yaml:"expired"` // left out: their time was over
	Seconds  float64 `json:"seconds" yaml:"seconds"`
}

func (importRow) header() []string { return []string{"IMPORTED", "REFUSED", "EXPIRED", "SECONDS"} }

func (r importRow) cells() []string {
	return []string{strconv.FormatInt(r.Imported, 10), strconv.FormatInt(r.Refused, 10), strconv.FormatInt(r.Expired, 10), fmt.Sprintf("%.2f", r.Seconds)}
}

func (r importRow) raw() []byte {
	text := fmt.Sprintf("%d records imported in %.1fs (%.0f/s)", r.Imported, r.Seconds, float64(r.Imported)/max(r.Seconds, 0.001))
	if r.Refused > 0 {
		text += fmt.Sprintf(", %d refused", r.Refused)
	}
	if r.Expired > 0 {
		text += fmt.Sprintf(", %d had expired", r.Expired)
	}
	return []byte(text + "\n")
}

// room bounds the bytes that are held at once.
type room struct {
	mu   sync.Mutex // guards used
	free sync.Cond
	used int
	size int
}

func (r *room) init(size int) {
	r.size = size
	r.free.L = &r.mu
}

// enter waits until n bytes fit; more than the whole room fits when it is empty.
func (r *room) enter(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.used > 0 && r.used+n > r.size {
		r.free.Wait()
	}
	r.used += n
}

func (r *room) leave(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
	r.free.Signal()
}

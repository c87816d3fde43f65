package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/fnv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// Scan returns a page in the order of the keys' bytes.
func (s *kv) Scan(ctx context.Context, r driver.ScanRequest) (driver.Page, error) {
	prefix, possible := wholeText(r.Prefix)
	after, err := s.decodeCursor(r.Prefix, prefix, r.Cursor)
	if err != nil || !possible {
		return driver.Page{}, err
	}
	if ctx.Err() != nil {
		return driver.Page{}, contextError(ctx)
	}
	type answer struct {
		page driver.Page
		err  error
	}
	// The query runs on when the caller leaves: ending it would cost the
	// connection, and it is bounded by the page and the statement timeout.
	done := make(chan answer, 1)
	go func() {
		page, err := s.scan(ctx, r, prefix, after)
		done <- answer{page, err}
	}()
	select {
	case a := <-done:
		return a.page, a.err
	case <-ctx.Done():
		return driver.Page{}, contextError(ctx)
	}
}

func (s *kv) scan(caller context.Context, r driver.ScanRequest, prefix, after string) (driver.Page, error) {
	if !s.c.enter() {
		return driver.Page{}, errClosed
	}
	defer s.c.leave()
	ctx, cancel := context.WithTimeout(s.c.base, s.c.flightTime())
	defer cancel()
	waiting, unhook := context.WithCancel(ctx)
	defer unhook()
	defer context.AfterFunc(caller, unhook)()
	pc, err := s.c.acquire(waiting) //nolint:contextcheck // its end is the caller's or our own
	if err != nil {
		return driver.Page{}, err
	}
	var page driver.Page
	err = s.readThrough(ctx, pc, func(ctx context.Context, pc *pgx.Conn) error { //nolint:contextcheck // the query outlives its caller
		var err error
		page, err = s.page(ctx, pc, r, prefix, after)
		return err
	})
	return page, err
}

// page reads one page. prefix is the part of r.Prefix that is whole text.
func (s *kv) page(ctx context.Context, pc *pgx.Conn, r driver.ScanRequest, prefix, after string) (driver.Page, error) {
	st, err := s.statements(ctx, pc)
	if err != nil {
		return driver.Page{}, err
	}
	maxBytes := r.MaxBytes
	if maxBytes <= 0 {
		maxBytes = 1 << 62
	}
	lower := prefix
	if after != "" {
		lower = after + "\x01" // the first text behind it, as there is no NUL
	}
	upper := above(prefix)
	args := s.scope()
	args[pLower], args[pUpper] = []byte(lower), []byte(upper)
	args[pLimit], args[pBytes] = int8Value(int64(r.Limit)), int8Value(int64(maxBytes))
	var page driver.Page
	rows, size, last := 0, 0, ""
	row := func(columns [][]byte) error {
		rows++
		last = string(columns[0])
		size += len(columns[0]) + len(columns[1])
		if !strings.HasPrefix(last, r.Prefix) {
			return nil // the prefix ends within a character
		}
		item := driver.Item{Key: last}
		if !r.KeysOnly {
			if item.Entry, err = entry(columns); err != nil {
				return err
			}
		}
		page.Items = append(page.Items, item)
		return nil
	}
	tx := &transaction{queries: []query{{st.scan[index(r.KeysOnly)][index(upper != "")], args, row}}}
	fly(ctx, pc, []*transaction{tx})
	if tx.err != nil {
		return driver.Page{}, tx.err
	}
	if rows == r.Limit || rows > 0 && size >= maxBytes {
		page.Next = s.encodeCursor(r.Prefix, prefix, last)
	}
	return page, nil
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// wholeText returns the part of a prefix that is whole text: a prefix may end
// within a character. It is false if no key can have the prefix.
func wholeText(prefix string) (string, bool) {
	if strings.IndexByte(prefix, 0) >= 0 {
		return "", false
	}
	if utf8.ValidString(prefix) {
		return prefix, true
	}
	for i := len(prefix) - 1; i >= 0 && i >= len(prefix)-utf8.UTFMax; i-- {
		if utf8.RuneStart(prefix[i]) {
			return prefix[:i], utf8.ValidString(prefix[:i]) && !utf8.FullRuneInString(prefix[i:])
		}
	}
	return "", false
}

// above returns the first text behind all that begin with prefix, "" if there
// is none. In UTF-8 the order of bytes is the order of characters.
func above(prefix string) string {
	for prefix != "" {
		last, size := utf8.DecodeLastRuneInString(prefix)
		prefix = prefix[:len(prefix)-size]
		switch {
		case last == 0xD7FF: // what follows is no character
			return prefix + "\uE000"
		case last < utf8.MaxRune:
			return prefix + string(last+1)
		}
	}
	return ""
}

// The cursor of a page is a checksum and the last key behind the whole text of
// the prefix.
const cursorCheck = 8

func (s *kv) encodeCursor(prefix, whole, last string) []byte {
	tail := last[len(whole):]
	return append(s.cursorSum(prefix, tail), tail...)
}

// decodeCursor returns the key after which the scan goes on, "" for all.
func (s *kv) decodeCursor(prefix, whole string, cursor []byte) (after string, err error) {
	if cursor == nil {
		return "", nil
	}
	if len(cursor) < cursorCheck || len(cursor) > cursorCheck+driver.MaxKey {
		return "", errs.InvalidCursor
	}
	tail := string(cursor[cursorCheck:])
	if !bytes.Equal(cursor[:cursorCheck], s.cursorSum(prefix, tail)) || checkKey(whole+tail) != nil {
		return "", errs.InvalidCursor
	}
	return whole + tail, nil
}

func (s *kv) cursorSum(prefix, tail string) []byte {
	h := fnv.New64a()
	for _, part := range []string{s.space.namespace, s.space.pattern, s.space.layout.Schema, s.space.layout.Table, prefix, tail} {
		_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(part))))
		_, _ = h.Write([]byte(part))
	}
	return h.Sum(nil)
}

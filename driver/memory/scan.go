package memory

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"strings"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// scanBatch is how many keys are taken from the index under one lock.
const scanBatch = 256

func (s *space) scan(ctx context.Context, r *driver.ScanRequest) (driver.Page, error) {
	if r.Limit < 1 {
		return driver.Page{}, errs.Invalid(errs.Field{Path: "limit", Text: "must be at least 1"})
	}
	from := position{key: r.Prefix}
	if r.Cursor != nil {
		last, ok := parseCursor(r.Prefix, r.Cursor)
		if !ok {
			return driver.Page{}, errs.InvalidCursor
		}
		from = position{key: last, after: true}
	}
	p := page{request: r}
	var keys [scanBatch]string
	for {
		if err := ctx.Err(); err != nil {
			return driver.Page{}, errs.ReasonOf(err)
		}
		found := s.index.collect(from, r.Prefix, keys[:min(scanBatch, r.Limit-len(p.Items)+1)])
		for _, key := range found {
			if p.full() {
				p.Next = newCursor(r.Prefix, from.key)
				return p.Page, nil
			}
			from = position{key: key, after: true}
			p.add(s, key)
		}
		if len(found) == 0 {
			return p.Page, nil
		}
	}
}

// page is a driver.Page that is being filled.
type page struct {
	driver.Page
	request *driver.ScanRequest
	size    int // bytes of keys and values
}

func (p *page) full() bool {
	return len(p.Items) >= p.request.Limit || p.request.MaxBytes > 0 && p.size >= p.request.MaxBytes
}

// add appends the entry of key if it is still there.
func (p *page) add(s *space, key string) {
	item := driver.Item{Key: key}
	if p.request.KeysOnly {
		if !s.present(key) {
			return
		}
	} else {
		e, err := s.get(key)
		if err != nil {
			return
		}
		item.Entry = e
	}
	p.size += len(key) + len(item.Value)
	p.Items = append(p.Items, item)
}

func (s *space) present(key string) bool {
	sh := s.shard(key)
	sh.mu.RLock()
	e := sh.entries[key]
	var at int64
	if e != nil {
		at = e.at
	}
	sh.mu.RUnlock()
	return e != nil && (at == 0 || at > s.now().UnixNano())
}

// A cursor is a checksum over prefix and last key, and what the last key has
// after the prefix.
const checksum = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newCursor(prefix, last string) []byte {
	c := make([]byte, checksum, checksum+len(last)-len(prefix))
	binary.BigEndian.PutUint32(c, cursorSum(prefix, last))
	return append(c, strings.TrimPrefix(last, prefix)...)
}

func parseCursor(prefix string, cursor []byte) (last string, ok bool) {
	if len(cursor) < checksum {
		return "", false
	}
	last = prefix + string(cursor[checksum:])
	return last, binary.BigEndian.Uint32(cursor) == cursorSum(prefix, last)
}

func cursorSum(prefix, last string) uint32 {
	sum := crc32.Checksum([]byte(prefix), castagnoli)
	sum = crc32.Update(sum, castagnoli, []byte{0})
	return crc32.Update(sum, castagnoli, []byte(last))
}

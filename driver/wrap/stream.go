package wrap

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// CheckPut returns what is wrong with the options of a Put into a Blob of this
// largest object; nil for nothing.
func CheckPut(o *driver.PutOptions, largest int64) error {
	switch {
	case o.Size < 0:
		return errs.Invalid(errs.Field{Path: "size", Text: "is negative; leave it out where it is not known"})
	case o.Size > largest:
		return errs.TooLarge("object", int(o.Size), int(largest))
	case o.IfAbsent && o.IfVersion != "":
		return errs.Invalid(errs.Field{Path: "if_version", Text: "an absent object has no version; leave this or if_absent out"})
	}
	return nil
}

// PutReader returns r as a Put has to read it: it fails when ctx has ended,
// when r has yielded more than largest, and when r yields another number of
// bytes than size, if that is not 0.
func PutReader(ctx context.Context, r io.Reader, size, largest int64) io.Reader {
	return &putReader{ctx: ctx, from: r, size: size, largest: largest}
}

type putReader struct {
	ctx           context.Context
	from          io.Reader
	size, largest int64
	done          int64
}

func (r *putReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, errs.ReasonOf(err)
	}
	n, err := r.from.Read(b)
	r.done += int64(n)
	switch {
	case r.done > r.largest:
		return n, errs.TooLarge("object", int(r.done), int(r.largest))
	case r.size > 0 && r.done > r.size || r.size > 0 && r.done < r.size && err == io.EOF:
		return n, errs.Invalid(errs.Field{Path: "size", Text: "is not how many bytes came"})
	}
	return n, err
}

// GetRange returns how many bytes a Get wants of an object of a size.
func GetRange(o *driver.GetOptions, size int64) (length int64, err error) {
	switch {
	case o.Offset < 0 || o.Length < 0:
		return 0, errs.Invalid(errs.Field{Path: "range", Text: "its offset or length is negative"})
	case o.Offset > size:
		return 0, errs.New(errs.OutOfRange, "the range begins beyond the %d bytes of the object", size)
	case o.Length == 0 || o.Length > size-o.Offset:
		return size - o.Offset, nil
	}
	return o.Length, nil
}

// A cursor of a list in the order of keys is a checksum over prefix and last
// key, and what the last key has after the prefix.
const cursorSumSize = 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewCursor returns the cursor behind the last key of a page.
func NewCursor(prefix, last string) []byte {
	return append(cursorSum(prefix, last), last[len(prefix):]...)
}

// ParseCursor returns the last key of the page before, or errs.InvalidCursor
// for what NewCursor never made for this prefix.
func ParseCursor(prefix string, cursor []byte) (last string, err error) {
	if len(cursor) < cursorSumSize {
		return "", errs.InvalidCursor
	}
	last = prefix + string(cursor[cursorSumSize:])
	if string(cursorSum(prefix, last)) != string(cursor[:cursorSumSize]) {
		return "", errs.InvalidCursor
	}
	return last, nil
}

func cursorSum(prefix, last string) []byte {
	sum := crc32.Checksum([]byte(prefix), castagnoli)
	sum = crc32.Update(sum, castagnoli, []byte{0})
	return binary.BigEndian.AppendUint32(nil, crc32.Update(sum, castagnoli, []byte(last)))
}

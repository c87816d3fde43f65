package wrap

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// CheckTask returns why a task cannot be put into a queue that takes most bytes.
func CheckTask(t *driver.Task, most int) error {
	if size := TaskSize(t); size > most {
		return errs.TooLarge("task", size, most)
	}
	if t.Priority < driver.MinPriority || t.Priority > driver.MaxPriority {
		return outside("priority", strconv.Itoa(driver.MinPriority), strconv.Itoa(driver.MaxPriority))
	}
	return between("delay", t.Delay, 0, driver.MaxDelay)
}

// TaskSize returns the bytes of a task's value and headers.
func TaskSize(t *driver.Task) int {
	size := len(t.Value)
	for _, h := range t.Headers {
		size += len(h.Name) + len(h.Value)
	}
	return size
}

// CheckReceive returns why a request cannot be served.
func CheckReceive(r *driver.ReceiveRequest) error {
	if r.Limit < 1 {
		return errs.Invalid(errs.Field{Path: "limit", Text: "is less than 1"})
	}
	return between("lease", r.Lease, driver.MinLease, driver.MaxLease)
}

// CheckSettlement returns why a settlement cannot be made, and which lease it is
// about.
func CheckSettlement(s *driver.Settlement) (Receipt, error) {
	r, ok := ParseReceipt(s.Receipt)
	if !ok {
		return r, errs.StaleReceipt
	}
	switch s.Kind {
	case driver.Done:
		return r, nil
	case driver.Return:
		return r, between("after", s.After, 0, driver.MaxDelay)
	case driver.Extend:
		return r, between("after", s.After, driver.MinLease, driver.MaxLease)
	}
	return r, errs.Invalid(errs.Field{Path: "kind", Text: "is none of done, return and extend"})
}

// Soonest returns in how long a settled task may be ready by itself, 0 for never.
func Soonest(settlements []driver.Settlement) (d time.Duration) {
	for _, s := range settlements {
		if s.Kind != driver.Done && s.After > 0 && (d == 0 || s.After < d) {
			d = s.After
		}
	}
	return d
}

func between(path string, d, least, most time.Duration) error {
	if d < least || d > most {
		return outside(path, least.String(), most.String())
	}
	return nil
}

func outside(path, least, most string) error {
	return errs.Invalid(errs.Field{Path: path, Text: fmt.Sprintf("is not between %s and %s", least, most)})
}

// A Receipt names one lease of a task. Nobody can guess the Token.
type Receipt struct {
	Position driver.Position
	Token    [16]byte
}

// NewReceipt returns a receipt that nobody has yet.
func NewReceipt(p driver.Position) Receipt {
	r := Receipt{Position: p}
	rand.Read(r.Token[:])
	return r
}

// String returns the text that receivers get.
func (r Receipt) String() string {
	var buf [40]byte
	text := append(strconv.AppendInt(buf[:0], int64(r.Position), 36), '.')
	return string(base64.RawURLEncoding.AppendEncode(text, r.Token[:]))
}

// ParseReceipt reads what String returns.
func ParseReceipt(text string) (Receipt, bool) {
	position, token, _ := strings.Cut(text, ".")
	n, err := strconv.ParseInt(position, 36, 64)
	r := Receipt{Position: driver.Position(n)}
	if err != nil || len(token) != base64.RawURLEncoding.EncodedLen(len(r.Token)) {
		return r, false
	}
	if _, err := base64.RawURLEncoding.Decode(r.Token[:], []byte(token)); err != nil {
		return r, false
	}
	return r, r.String() == text
}

// OwnTask returns a task that shares no memory with t.
func OwnTask(t *driver.Task) driver.Task {
	own := *t
	own.ID = strings.Clone(t.ID)
	own.Value = bytes.Clone(t.Value)
	own.Headers = slices.Clone(t.Headers)
	for i, h := range own.Headers {
		own.Headers[i] = driver.Header{Name: strings.Clone(h.Name), Value: strings.Clone(h.Value)}
	}
	return own
}

// AppendHeaders appends headers in a form that ReadHeaders reads: each name and
// each value after its length.
func AppendHeaders(b []byte, headers []driver.Header) []byte {
	for _, h := range headers {
		for _, text := range []string{h.Name, h.Value} {
			b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
		}
	}
	return b
}

var errHeaders = errors.New("the headers are damaged")

// ReadHeaders reads what AppendHeaders wrote. It keeps nothing of b.
func ReadHeaders(b []byte) (headers []driver.Header, err error) {
	for len(b) > 0 {
		var h driver.Header
		for _, text := range []*string{&h.Name, &h.Value} {
			n, width := binary.Uvarint(b)
			if width <= 0 || n > uint64(len(b)-width) {
				return nil, errHeaders
			}
			*text = string(b[width : width+int(n)])
			b = b[width+int(n):]
		}
		headers = append(headers, h)
	}
	return headers, nil
}

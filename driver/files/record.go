package files

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	"github.com/prismgw/prism/driver"
)

// A record says what a file is. It stands behind the object's bytes, as a line
// of JSON, its length and a mark, so that files can be looked at as they are and
// one that was cut shows.
type record struct {
	Key      string            `json:"key"`
	Size     int64             `json:"size"`
	Version  string            `json:"version"`
	Modified time.Time         `json:"modified"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

const (
	mark        = "\nprism-object-1\n"
	endSize     = 4 + len(mark)
	mostRecord  = 64 << 10 // keys and metadata have far less, however they are quoted
	likelyBytes = 1 << 10  // read at once
)

var errDamaged = errors.New("the file is not as it was put")

// end returns what stands behind the object's bytes.
func (r *record) end() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	text = append([]byte("\n"), text...)
	return append(binary.BigEndian.AppendUint32(text, uint32(len(text))), mark...), nil
}

func (r *record) object() driver.Object {
	return driver.Object{Key: r.Key, Size: r.Size, Version: r.Version, Modified: r.Modified, Metadata: r.Metadata}
}

// readRecord reads the record of a file, or fails with errDamaged.
func readRecord(f *os.File) (*record, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	text, err := tail(f, info.Size(), likelyBytes)
	if err != nil {
		return nil, err
	}
	if len(text) < endSize || string(text[len(text)-len(mark):]) != mark {
		return nil, errDamaged
	}
	length := int64(binary.BigEndian.Uint32(text[len(text)-endSize:]))
	if length > mostRecord || length+int64(endSize) > info.Size() {
		return nil, errDamaged
	}
	if text, err = tail(f, info.Size(), length+int64(endSize)); err != nil {
		return nil, err
	}
	var r record
	if json.Unmarshal(text[:length], &r) != nil || r.Size+length+int64(endSize) != info.Size() {
		return nil, errDamaged
	}
	return &r, nil
}

// tail reads the last bytes of a file, as many as there are.
func tail(f io.ReaderAt, size, length int64) ([]byte, error) {
	text := make([]byte, min(size, length))
	_, err := f.ReadAt(text, size-int64(len(text)))
	if err == io.EOF {
		return nil, errDamaged
	}
	return text, err
}

// Package rest is what the patterns share of HTTP: bodies with limits and
// deadlines, answers as JSON, and streams of events. It knows no pattern.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/prismgw/prism/errs"
	"github.com/prismgw/prism/pattern"
)

// maxJSON bounds the body of an action: a batch in base64, with room.
const maxJSON = 8 << 20

// Body reads a request's body up to a limit, and until the call's deadline.
func Body(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest, limitOf string, limit int) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		return nil, errs.TooLarge(limitOf, int(r.ContentLength), limit)
	}
	if r.ContentLength == 0 {
		return nil, nil
	}
	at, _ := ctx.Deadline() // every call over HTTP has one
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(at); err != nil {
		return nil, err
	}
	in := http.MaxBytesReader(w, r.Body, int64(limit))
	b, err := readSized(in, int(r.ContentLength))
	if err != nil {
		return nil, bodyError(err, limitOf, limit)
	}
	// It is the body's alone: a read that fails later would cancel the call.
	return b, rc.SetReadDeadline(time.Time{})
}

// readSized reads size bytes, or all there are if it is negative. It takes the
// memory for many of them only when the first have come, so that a promise
// alone costs little.
func readSized(in io.Reader, size int) ([]byte, error) {
	const trust = 64 << 10
	if size < 0 {
		return io.ReadAll(in)
	}
	b := make([]byte, min(size, trust))
	n, err := io.ReadFull(in, b)
	if err != nil || n == size {
		return b, err
	}
	b = append(make([]byte, 0, size), b...)[:size]
	_, err = io.ReadFull(in, b[n:])
	return b, err
}

func bodyError(err error, limitOf string, limit int) error {
	var over *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &over):
		return errs.TooLarge(limitOf, limit+1, limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errs.Deadline
	case errors.Is(err, context.Canceled):
		return errs.Cancelled
	}
	return errs.Wrap(err, errs.InvalidField, "the body of the request broke off")
}

// ReadJSON reads a message from its JSON form.
func ReadJSON(ctx context.Context, w http.ResponseWriter, r *pattern.HTTPRequest, into proto.Message) error {
	b, err := Body(ctx, w, r, "request", maxJSON)
	if err != nil {
		return err
	}
	if err := protojson.Unmarshal(b, into); err != nil {
		return errs.Invalid(errs.Field{Path: "body", Text: mistake(err)})
	}
	return nil
}

// badValue is what protojson says of a value that does not fit; the value
// itself follows.
var badValue = regexp.MustCompile(`invalid value for \w+ (field|type)( \w+)?|invalid google\.protobuf\.\w+ value|unexpected token|invalid value`)

// mistake returns what protojson found, without the values that it quotes.
// Its spaces are random on purpose.
func mistake(err error) string {
	const most = 120
	text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "proto:"), "\u00a0", " ")
	if at := badValue.FindStringIndex(text); at != nil {
		text = text[:at[1]]
	}
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strings.TrimSpace(text)
}

// WriteProto answers with the JSON form of a message, without the spaces that
// protojson varies from build to build.
func WriteProto(w http.ResponseWriter, m proto.Message) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: false}.Marshal(m)
	if err != nil {
		return err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return err
	}
	return writeRaw(w, "application/json", compact.Bytes())
}

// WriteJSON answers with v as JSON.
func WriteJSON(w http.ResponseWriter, contentType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeRaw(w, contentType, b)
}

func writeRaw(w http.ResponseWriter, contentType string, b []byte) error {
	b = append(b, '\n')
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	_, err := w.Write(b)
	return err
}

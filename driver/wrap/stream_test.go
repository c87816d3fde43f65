package wrap_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

func TestCheckPut(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		o    driver.PutOptions
		want error
	}{
		{driver.PutOptions{}, nil},
		{driver.PutOptions{Size: 10, IfAbsent: true}, nil},
		{driver.PutOptions{Size: 11}, errs.PayloadTooLarge},
		{driver.PutOptions{Size: -1}, errs.InvalidField},
		{driver.PutOptions{IfAbsent: true, IfVersion: "1"}, errs.InvalidField},
	} {
		if err := wrap.CheckPut(&x.o, 10); !errors.Is(err, x.want) {
			t.Errorf("%+v: %v, want %v", x.o, err, x.want)
		}
	}
}

func TestPutReader(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		text string
		size int64
		want error
	}{
		{"", 0, nil},
		{"0123456789", 0, nil},
		{"0123456789", 10, nil},
		{"0123456789a", 0, errs.PayloadTooLarge},
		{"0123", 5, errs.InvalidField},
		{"012345", 5, errs.InvalidField},
	} {
		text, err := io.ReadAll(wrap.PutReader(t.Context(), strings.NewReader(x.text), x.size, 10))
		if !errors.Is(err, x.want) || err == nil && string(text) != x.text {
			t.Errorf("%q of %d: %q, %v, want %v", x.text, x.size, text, err, x.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := wrap.PutReader(ctx, strings.NewReader("0"), 0, 10).Read(make([]byte, 1)); !errors.Is(err, errs.Cancelled) {
		t.Errorf("read after the context has ended: %v", err)
	}
}

func TestGetRange(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		offset, length, want int64
		err                  error
	}{
		{0, 0, 10, nil},
		{3, 0, 7, nil},
		{3, 4, 4, nil},
		{3, 8, 7, nil},
		{10, 0, 0, nil},
		{10, 1, 0, nil},
		{3, 1<<63 - 1, 7, nil},
		{11, 0, 0, errs.OutOfRange},
		{-1, 0, 0, errs.InvalidField},
		{0, -1, 0, errs.InvalidField},
	} {
		got, err := wrap.GetRange(&driver.GetOptions{Offset: x.offset, Length: x.length}, 10)
		if got != x.want || !errors.Is(err, x.err) {
			t.Errorf("%d from %d: %d, %v, want %d, %v", x.length, x.offset, got, err, x.want, x.err)
		}
	}
}

func TestCursors(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		prefix, rest := rapid.String().Draw(t, "prefix"), rapid.String().Draw(t, "rest")
		cursor := wrap.NewCursor(prefix, prefix+rest)
		if last, err := wrap.ParseCursor(prefix, cursor); err != nil || last != prefix+rest {
			t.Errorf("%q, %v", last, err)
		}
		if _, err := wrap.ParseCursor(prefix+"x", cursor); !errors.Is(err, errs.InvalidCursor) {
			t.Errorf("a cursor of another prefix: %v", err)
		}
		cursor[rapid.IntRange(0, len(cursor)-1).Draw(t, "byte")] ^= 1
		if last, err := wrap.ParseCursor(prefix, cursor); !errors.Is(err, errs.InvalidCursor) {
			t.Errorf("a cursor with a wrong bit: %q, %v", last, err)
		}
	})
}

package client

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prismgw/prism/errs"
)

type cart struct {
	Items []string
	Count int
}

func TestTypedStore(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := newServer(t)
	c := s.dial(t)
	carts := Store[cart](c, "shop/carts")
	if _, err := carts.Put(ctx, "alice", cart{Items: []string{"pen"}}, TTL(time.Hour)); err != nil {
		t.Fatal(err)
	}
	got, err := carts.Get(ctx, "alice")
	if err != nil || len(got.Items) != 1 || got.Items[0] != "pen" {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := carts.Delete(ctx, "alice"); err != nil {
		t.Error(err)
	}
	_, err = carts.Get(ctx, "alice")
	wantReason(t, err, errs.KeyNotFound)
	s.put("broken", "{")
	_, err = carts.Get(ctx, "broken")
	wantReason(t, err, errs.WrongType)
	_, err = Store[func()](c, "shop").Put(ctx, "f", func() {})
	wantReason(t, err, errs.InvalidField)
	_, err = Store[cart](c, "shop", JSON{}, JSON{}).Get(ctx, "k")
	wantReason(t, err, errs.InvalidField)
}

// upper is a codec of another kind.
type upper struct{}

func (upper) Marshal(v any) ([]byte, error) { return []byte(strings.ToUpper(fmt.Sprint(v))), nil }

func (upper) Unmarshal(data []byte, v any) error {
	p, ok := v.(*string)
	if !ok {
		return errors.New("not a string")
	}
	*p = string(data)
	return nil
}

func TestOtherCodec(t *testing.T) {
	t.Parallel()
	words := Store[string](newServer(t).dial(t), "words", upper{})
	if _, err := words.Put(t.Context(), "k", "abc"); err != nil {
		t.Fatal(err)
	}
	if got, err := words.Get(t.Context(), "k"); got != "ABC" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUpdateLosesNothing(t *testing.T) {
	t.Parallel()
	carts := Store[cart](newServer(t).dial(t), "shop")
	var group sync.WaitGroup
	const each = 20
	for range 8 {
		group.Go(func() {
			for range each {
				if err := carts.Update(t.Context(), "bob", func(c *cart) error { c.Count++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got, err := carts.Get(t.Context(), "bob"); got.Count != 8*each || err != nil {
		t.Errorf("got %d, %v; want %d", got.Count, err, 8*each)
	}
	refuse := errors.New("no")
	if err := carts.Update(t.Context(), "bob", func(*cart) error { return refuse }); err != refuse { //nolint:errorlint // as it is
		t.Errorf("got %v", err)
	}
}

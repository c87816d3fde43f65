package wrap_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/wrap"
	"github.com/prismgw/prism/errs"
)

func TestReceipts(t *testing.T) {
	t.Parallel()
	r := wrap.Receipt{Position: 1<<63 - 1, Token: [16]byte{1, 2, 255}}
	text := r.String()
	if len(text) > 64 {
		t.Errorf("%s has %d bytes", text, len(text))
	}
	if got, ok := wrap.ParseReceipt(text); !ok || got != r {
		t.Errorf("%s is read as %v, %v", text, got, ok)
	}
	for _, other := range []string{"", ".", text + "A", text[1:], strings.ToUpper(text), text[:len(text)-1], "+" + text, "0" + text, text[:len(text)-1] + "B", strings.Replace(text, ".", "..", 1)} {
		if got, ok := wrap.ParseReceipt(other); ok && got == r {
			t.Errorf("%q is read as %s", other, text)
		}
	}
}

func TestHeadersComeBack(t *testing.T) {
	t.Parallel()
	want := []driver.Header{{Name: "a", Value: ""}, {Name: "b", Value: strings.Repeat("x", 300)}, {Name: "a", Value: "\x00\n="}}
	stored := wrap.AppendHeaders(nil, want)
	if got, err := wrap.ReadHeaders(stored); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := wrap.ReadHeaders(nil); err != nil || got != nil {
		t.Errorf("none: got %v, %v", got, err)
	}
	for n := 1; n < len(stored); n++ {
		if got, err := wrap.ReadHeaders(stored[:n]); err == nil && len(got) == len(want) {
			t.Errorf("%d of %d bytes are read", n, len(stored))
		}
	}
}

func TestWhatQueuesRefuse(t *testing.T) {
	t.Parallel()
	receipt := wrap.Receipt{}.String()
	task := func(change func(*driver.Task)) error {
		good := driver.Task{Priority: 5, Value: []byte("123"), Headers: []driver.Header{{Name: "n", Value: "v"}}}
		change(&good)
		return wrap.CheckTask(&good, 5)
	}
	settle := func(s driver.Settlement) error {
		_, err := wrap.CheckSettlement(&s)
		return err
	}
	receive := func(limit int, lease time.Duration) error {
		return wrap.CheckReceive(&driver.ReceiveRequest{Limit: limit, Lease: lease})
	}
	for what, x := range map[string]struct {
		err  error
		want errs.Reason
	}{
		"a good task":        {task(func(*driver.Task) {}), 0},
		"a large task":       {task(func(t *driver.Task) { t.Value = []byte("1234") }), errs.PayloadTooLarge},
		"no priority":        {task(func(t *driver.Task) { t.Priority = 0 }), errs.InvalidField},
		"a high priority":    {task(func(t *driver.Task) { t.Priority = 11 }), errs.InvalidField},
		"a negative delay":   {task(func(t *driver.Task) { t.Delay = -1 }), errs.InvalidField},
		"a long delay":       {task(func(t *driver.Task) { t.Delay = driver.MaxDelay + 1 }), errs.InvalidField},
		"a good receive":     {receive(1, time.Minute), 0},
		"no limit":           {receive(0, time.Minute), errs.InvalidField},
		"a short lease":      {receive(1, driver.MinLease-1), errs.InvalidField},
		"a long lease":       {receive(1, driver.MaxLease+1), errs.InvalidField},
		"done":               {settle(driver.Settlement{Kind: driver.Done, Receipt: receipt}), 0},
		"a return at once":   {settle(driver.Settlement{Kind: driver.Return, Receipt: receipt}), 0},
		"a return too late":  {settle(driver.Settlement{Kind: driver.Return, Receipt: receipt, After: driver.MaxDelay + 1}), errs.InvalidField},
		"a return to before": {settle(driver.Settlement{Kind: driver.Return, Receipt: receipt, After: -1}), errs.InvalidField},
		"a short extension":  {settle(driver.Settlement{Kind: driver.Extend, Receipt: receipt}), errs.InvalidField},
		"no kind":            {settle(driver.Settlement{Receipt: receipt}), errs.InvalidField},
		"no receipt":         {settle(driver.Settlement{Kind: driver.Done}), errs.StaleReceipt},
	} {
		if got := errs.ReasonOf(x.err); got != x.want || (x.err == nil) != (x.want == 0) {
			t.Errorf("%s: %v", what, x.err)
		}
	}
}

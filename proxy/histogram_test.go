package proxy

import (
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// What many goroutines observe at once is what is collected.
func TestHistogramCountsAll(t *testing.T) {
	t.Parallel()
	h := newHistogram("h", "help", [2]string{"a", "b"})
	d := h.with("x", "y")
	const each = 1000
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range each {
				d.observe(100 * time.Microsecond) // a bound belongs to its bucket
				d.observe(100*time.Microsecond + 1)
				d.observe(time.Minute)
			}
		})
	}
	all.Wait()
	if h.with("x", "y") != d {
		t.Error("the same labels have other counts")
	}
	count, sum, buckets := d.total()
	if count != 3*8*each || sum < 8*60*each || sum > 8*60*each+8 {
		t.Errorf("count %d, sum %v", count, sum)
	}
	for _, c := range []struct {
		bound time.Duration
		want  uint64
	}{{100 * time.Microsecond, 8 * each}, {250 * time.Microsecond, 16 * each}, {10 * time.Second, 16 * each}} {
		if got := buckets[c.bound.Seconds()]; got != c.want {
			t.Errorf("up to %v: %d, want %d", c.bound, got, c.want)
		}
	}
}

func TestHistogramIsWritten(t *testing.T) {
	t.Parallel()
	h := newHistogram("h", "help", [2]string{"a", "b"})
	h.with("x", "y").observe(3 * time.Millisecond)
	want := "# HELP h help\n# TYPE h histogram\n"
	cumulative := 0
	for _, le := range []string{"0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "10", "+Inf"} {
		if le == "0.005" {
			cumulative = 1
		}
		want += `h_bucket{a="x",b="y",le="` + le + `"} ` + string(rune('0'+cumulative)) + "\n"
	}
	want += "h_sum{a=\"x\",b=\"y\"} 0.003\nh_count{a=\"x\",b=\"y\"} 1\n"
	r := prometheus.NewRegistry()
	r.MustRegister(h)
	got := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(got, httptest.NewRequest("GET", "/metrics", nil))
	if got.Body.String() != want {
		t.Errorf("got\n%s\nwant\n%s", got.Body, want)
	}
}

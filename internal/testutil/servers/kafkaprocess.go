package servers

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// kafkaProcess has a test's own program be a broker; see ServeKafka.
const kafkaProcess = "PRISM_TEST_BE_KAFKA"

// KafkaProcess starts franz-go's broker as a process of its own, which can be
// killed and paused. It is the test's own program, whose TestMain has to
// begin with ServeKafka. configs are the broker's, as key=value.
func KafkaProcess(t testing.TB, configs ...string) *Server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, binary: self, Dir: privateDir(t), Port: freePort(t)}
	s.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port))
	s.spec = spec{
		name: "kafka",
		env:  []string{kafkaProcess + "=1"},
		args: func(s *Server) []string {
			return append([]string{strconv.Itoa(s.Port), filepath.Join(s.Dir, "data")}, configs...)
		},
		ready: func(ctx context.Context, s *Server) error {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.Addr)
			if err != nil {
				return err
			}
			return c.Close()
		},
	}
	t.Cleanup(s.cleanup)
	if err := s.launch(); err != nil {
		t.Fatalf("starting kafka: %v\n%s", err, s.Output())
	}
	return s
}

// ServeKafka is the broker of KafkaProcess, if this process is to be one, until
// it is told to end. It reports whether it was.
func ServeKafka() bool {
	if os.Getenv(kafkaProcess) == "" {
		return false
	}
	if err := serveKafka(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
	}
	return true
}

func serveKafka(args []string) error {
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	configs := map[string]string{}
	for _, pair := range args[2:] {
		name, value, _ := strings.Cut(pair, "=")
		configs[name] = value
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(args[1]), kfake.SyncWrites(), kfake.BrokerConfigs(configs))
	if err != nil {
		return err
	}
	<-end
	cluster.Close()
	return nil
}

// A KafkaRelay stands before a broker and makes it advertise another address,
// such as that of a proxy before the relay: clients follow what brokers say of
// themselves, and would go around it.
type KafkaRelay struct {
	Addr string // where it listens

	target string

	mu         sync.Mutex // guards what follows
	advertised string
	open       map[net.Conn]struct{}
	closed     bool
	work       sync.WaitGroup
}

// RelayKafka starts a relay before the broker on an address.
func RelayKafka(t testing.TB, target string) *KafkaRelay {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &KafkaRelay{Addr: l.Addr().String(), target: target, advertised: target, open: map[net.Conn]struct{}{}}
	r.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.work.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		r.closed = true
		for c := range r.open {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.work.Wait()
	})
	return r
}

// Advertise sets the address that clients get to know, with the target's host.
func (r *KafkaRelay) Advertise(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.advertised = addr
}

func (r *KafkaRelay) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	broker, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", r.target)
	if err != nil || !r.keep(client, broker) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(broker, client)
		_ = broker.Close()
	})
	both.Go(func() {
		r.answers(client, broker)
		_ = client.Close()
	})
	both.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, client)
	delete(r.open, broker)
}

func (r *KafkaRelay) keep(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.open[c] = struct{}{}
		if r.closed {
			_ = c.Close()
		}
	}
	return !r.closed
}

// answers forwards whole answers. In each of them that names the broker its
// host stands before its port in four bytes, which no other content looks like.
func (r *KafkaRelay) answers(client io.Writer, broker io.Reader) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(broker, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(broker, body); err != nil {
			return
		}
		r.mu.Lock()
		body = bytes.ReplaceAll(body, wireAddr(r.target), wireAddr(r.advertised))
		r.mu.Unlock()
		if _, err := client.Write(append(head[:], body...)); err != nil {
			return
		}
	}
}

func wireAddr(addr string) []byte {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.ParseUint(port, 10, 32)
	return binary.BigEndian.AppendUint32([]byte(host), uint32(n))
}

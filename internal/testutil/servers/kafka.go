package servers

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
)

// KafkaCluster is a Kafka that tests talk to: franz-go's broker in this
// process, or a real one that the environment names.
type KafkaCluster struct {
	Brokers []string       // host:port
	Fake    *kfake.Cluster // nil for a real one

	t    testing.TB
	opts []kfake.Opt
}

// Kafka returns a Kafka: the one PRISM_TEST_KAFKA_BROKERS names, else a new one
// in this process. Topics and groups need names of their own.
func Kafka(t testing.TB) *KafkaCluster {
	t.Helper()
	if brokers := os.Getenv("PRISM_TEST_KAFKA_BROKERS"); brokers != "" {
		return &KafkaCluster{t: t, Brokers: strings.Split(brokers, ",")}
	}
	return KafkaWith(t)
}

// KafkaWith starts one broker in this process, with further options, whatever
// the environment says. It keeps its data in files and syncs each write, so
// that Stop and Start find what was acknowledged.
func KafkaWith(t testing.TB, opts ...kfake.Opt) *KafkaCluster {
	t.Helper()
	return KafkaBrokers(t, 1, opts...)
}

// KafkaBrokers is KafkaWith for so many brokers of one cluster.
func KafkaBrokers(t testing.TB, brokers int, opts ...kfake.Opt) *KafkaCluster {
	t.Helper()
	dir := filepath.Join(privateDir(t), "kafka")
	all := append([]kfake.Opt{kfake.NumBrokers(brokers), kfake.DataDir(dir), kfake.SyncWrites()}, opts...)
	k := &KafkaCluster{t: t}
	for range 20 {
		var ports []int
		for range brokers {
			ports = append(ports, freePort(t))
		}
		k.opts = append(slices.Clone(all), kfake.Ports(ports...))
		err := k.start()
		if err == nil {
			t.Cleanup(k.Stop)
			return k
		}
		if !errors.Is(err, syscall.EADDRINUSE) { // somebody else was quicker
			t.Fatalf("kafka: %v", err)
		}
	}
	t.Fatal("kafka: each of 20 free ports was taken before it could be used")
	return nil
}

// Stop ends the broker in order; its port refuses connections. It cannot be
// killed: it lives in the test's own process.
func (k *KafkaCluster) Stop() {
	k.t.Helper()
	if k.Fake != nil {
		k.Fake.Close()
		k.Fake = nil
	}
}

// Start starts a stopped broker on the port and the data that it had.
func (k *KafkaCluster) Start() {
	k.t.Helper()
	if k.opts == nil {
		k.t.Fatal("the Kafka given by PRISM_TEST_KAFKA_BROKERS cannot be started by a test; unset the variable")
	}
	if k.Fake != nil {
		return
	}
	if err := k.start(); err != nil {
		k.t.Fatalf("kafka: %v", err)
	}
}

func (k *KafkaCluster) start() error {
	cluster, err := kfake.NewCluster(k.opts...)
	if err != nil {
		return err
	}
	k.Fake, k.Brokers = cluster, cluster.ListenAddrs()
	return nil
}

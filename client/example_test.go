package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/prismgw/prism/client"
	"github.com/prismgw/prism/client/prismtest"
	"github.com/prismgw/prism/errs"
)

// The examples talk to a real Prism that serves the namespace "test".
func ExampleDial() {
	addr, stop := prismtest.Serve()
	defer stop()

	c, err := client.Dial(addr, client.WithNamespace("test"))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx := context.Background()
	kv := c.KeyValue("test")
	version, err := kv.Store(ctx, "greeting", []byte("hello"))
	if err != nil {
		log.Fatal(err)
	}
	entry, err := kv.Retrieve(ctx, "greeting")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(entry.Value), entry.Version == version)
	// Output: hello true
}

func ExampleKeyValue_Store_condition() {
	addr, stop := prismtest.Serve()
	defer stop()
	c, err := client.Dial(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx := context.Background()
	kv := c.KeyValue("test")
	if _, err := kv.Store(ctx, "leader", []byte("a"), client.IfAbsent()); err != nil {
		log.Fatal(err)
	}
	_, err = kv.Store(ctx, "leader", []byte("b"), client.IfAbsent())
	fmt.Println(errors.Is(err, errs.AlreadyExists))
	// Output: true
}

type cart struct {
	Items []string
}

func ExampleStore() {
	addr, stop := prismtest.Serve()
	defer stop()
	c, err := client.Dial(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx := context.Background()
	carts := client.Store[cart](c, "test/data")
	if _, err := carts.Put(ctx, "c-17", cart{Items: []string{"tea"}}); err != nil {
		log.Fatal(err)
	}
	// Update reads, changes and stores, again if somebody else was faster.
	if err := carts.Update(ctx, "c-17", func(c *cart) error {
		c.Items = append(c.Items, "milk")
		return nil
	}); err != nil {
		log.Fatal(err)
	}
	got, err := carts.Get(ctx, "c-17")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(got.Items)
	// Output: [tea milk]
}

func ExampleKeyValue_Scan() {
	addr, stop := prismtest.Serve()
	defer stop()
	c, err := client.Dial(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx := context.Background()
	kv := c.KeyValue("test")
	for _, key := range []string{"user/1", "user/2", "order/1"} {
		if _, err := kv.Store(ctx, key, []byte("v")); err != nil {
			log.Fatal(err)
		}
	}
	for entry, err := range kv.Scan(ctx, "user/", client.KeysOnly()) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(entry.Key)
	}
	// Output:
	// user/1
	// user/2
}

func ExamplePubSub_Subscribe() {
	addr, stop := prismtest.Serve()
	defer stop()
	c, err := client.Dial(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	ctx := context.Background()
	events := c.PubSub("test/events")
	sub, err := events.Subscribe(ctx, "orders.*")
	if err != nil {
		log.Fatal(err)
	}
	defer sub.Close()
	if _, err := events.Publish(ctx, "orders.placed", []byte("17")); err != nil {
		log.Fatal(err)
	}
	for m, err := range sub.Messages() {
		if err != nil {
			log.Fatal(err)
		}
		if m.Missed != 0 {
			continue // here, some were missed
		}
		fmt.Println(m.Subject, string(m.Payload))
		return
	}
	// Output: orders.placed 17
}

func ExampleQueues_Work() {
	addr, stop := prismtest.Serve()
	defer stop()
	c, err := client.Dial(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	queues := c.Queues("test")
	if _, err := queues.Enqueue(context.Background(), "mails", []byte("welcome")); err != nil {
		log.Fatal(err)
	}
	ctx, done := context.WithCancel(context.Background())
	err = queues.Work(ctx, "mails", func(_ context.Context, t *client.Task) error {
		fmt.Println("sending", string(t.Payload()))
		done()
		return nil // it is done, and gone
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: sending welcome
}

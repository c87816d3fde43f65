package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	consumerv1 "github.com/prismgw/prism/api/prism/consumer/v1"
)

// takerAddresses has this program be a consumer of the group that is crashed
// upon, in a process that can be killed: it names the files in which proxies
// leave their addresses. takerHasty makes it a wrong one.
const (
	takerAddresses = "PRISM_TEST_BE_TAKER"
	takerHasty     = "PRISM_TEST_TAKER_IS_HASTY"
)

// A taker is a process that consumes. It writes what it does into a pipe that
// all takers share, a line at a time, so that the lines stand in the order in
// which things happened.
type taker struct{ cmd *exec.Cmd }

func startTaker(t *testing.T, say *os.File, ready []string, hasty bool) *taker {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k := &taker{cmd: exec.Command(self)}
	k.cmd.Env = append(os.Environ(), takerAddresses+"="+strings.Join(ready, string(filepath.ListSeparator)))
	if hasty {
		k.cmd.Env = append(k.cmd.Env, takerHasty+"=1")
	}
	k.cmd.Stdout, k.cmd.Stderr = say, os.Stderr
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.kill)
	return k
}

func (k *taker) kill() {
	_ = k.cmd.Process.Kill() // fails if it has ended already
	_ = k.cmd.Wait()         // likewise
}

// beTaker consumes until it is killed, if this process is to do so.
func beTaker() bool {
	files := os.Getenv(takerAddresses)
	if files == "" {
		return false
	}
	ready, hasty := filepath.SplitList(files), os.Getenv(takerHasty) != ""
	for n := rand.IntN(len(ready)); ; n++ {
		if at, err := readReady(ready[n%len(ready)]); err == nil {
			_ = takeFrom(at.GRPC, hasty) // the proxy may be killed at any time
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// takeFrom consumes through one proxy until that fails. It says "got" before it
// acknowledges a message, and "done" when the proxy has said that this stays so.
// A hasty one says both when it is too late.
func takeFrom(addr string, hasty bool) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "x-prism-namespace", "shop"))
	defer cancel()
	stream, err := consumerv1.NewConsumerClient(conn).Subscribe(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&consumerv1.SubscribeRequest{Open: &consumerv1.SubscribeRequest_Open{Topic: "orders", Group: "billing"}, Credit: 64})
	if err != nil {
		return err
	}
	inHand := map[uint64]string{}
	for id := uint64(1); ; {
		got, err := stream.Recv()
		if err != nil || got.GetGoingAway() {
			return err
		}
		answer := &consumerv1.SubscribeRequest{Credit: int32(len(got.GetDeliveries()))}
		for _, d := range got.GetDeliveries() {
			inHand[id] = fmt.Sprintf("%s %s", d.GetEnvelope().GetMetadata().GetPartitionKey(), d.GetEnvelope().GetPayload())
			if !hasty {
				say("got", inHand[id])
			}
			answer.Settlements = append(answer.Settlements, &consumerv1.Settlement{
				Id: id, Receipt: d.GetReceipt(), Verdict: &consumerv1.Settlement_Acknowledge_{Acknowledge: new(consumerv1.Settlement_Acknowledge)},
			})
			id++
		}
		for _, s := range got.GetSettled() {
			if s.GetError() == nil {
				tell(inHand[s.GetId()], hasty)
			}
			delete(inHand, s.GetId())
		}
		if answer.Credit > 0 {
			if err := stream.Send(answer); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
	}
}

func tell(message string, hasty bool) {
	if !hasty {
		say("done", message)
		return
	}
	go func() {
		time.Sleep(rand.N(time.Second)) // what it has acknowledged it does later
		say("got", message)
	}()
}

func say(what, message string) { fmt.Fprintf(os.Stdout, "%s %s\n", what, message) }

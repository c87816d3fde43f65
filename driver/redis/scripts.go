package redis

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by it
	_ "embed"
	"encoding/hex"

	"github.com/redis/rueidis"
)

var (
	//go:embed append.lua
	appendText string
	//go:embed trim.lua
	trimText string
	//go:embed look.lua
	lookText string
	//go:embed topic.lua
	topicText string
	//go:embed partition.lua
	partitionText string
	//go:embed group.lua
	groupText string
)

// The scripts of Log.
var (
	appendScript    = newScript(appendText)
	trimScript      = newScript(trimText)
	lookScript      = newScript(lookText)
	topicScript     = newScript(topicText)
	partitionScript = newScript(partitionText)
	groupScript     = newScript(groupText)
)

// A script is called by its hash.
type script struct{ text, sha string }

func newScript(text string) *script {
	sum := sha1.Sum([]byte(text)) //nolint:gosec // see the import
	return &script{text, hex.EncodeToString(sum[:])}
}

// An execution is that of a script.
type execution struct {
	script *script
	keys   []string
	args   []string
}

func (e *execution) byHash(c rueidis.Client) rueidis.Completed {
	return c.B().Evalsha().Sha1(e.script.sha).Numkeys(int64(len(e.keys))).Key(e.keys...).Arg(e.args...).Build()
}

func (e *execution) byText(c rueidis.Client) rueidis.Completed {
	return c.B().Eval().Script(e.script.text).Numkeys(int64(len(e.keys))).Key(e.keys...).Arg(e.args...).Build()
}

// execute runs scripts in one round trip, and in another one those that the
// server does not know.
func (l *link) execute(ctx context.Context, c rueidis.Client, all ...execution) []rueidis.RedisResult {
	if len(all) == 1 {
		answer := l.one(ctx, c, all[0].byHash(c))
		if unknown(answer) {
			answer = l.one(ctx, c, all[0].byText(c))
		}
		return []rueidis.RedisResult{answer}
	}
	cmds := make([]rueidis.Completed, len(all))
	for i := range all {
		cmds[i] = all[i].byHash(c)
	}
	answers := l.many(ctx, c, cmds)
	cmds = cmds[:0]
	var again []int
	for i := range all {
		if unknown(answers[i]) {
			cmds, again = append(cmds, all[i].byText(c)), append(again, i)
		}
	}
	if len(again) > 0 {
		for n, answer := range l.many(ctx, c, cmds) {
			answers[again[n]] = answer
		}
	}
	return answers
}

// unknown reports whether the server does not know the script.
func unknown(answer rueidis.RedisResult) bool {
	e, ok := rueidis.IsRedisErr(answer.Error())
	return ok && e.IsNoScript()
}

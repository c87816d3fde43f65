package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The first commands of the README work as they stand there, in the project's
// folder, and print what stands below them. Only addresses and the folder of
// the data come from outside.
func TestReadme(t *testing.T) {
	t.Parallel()
	tool(t, "curl", "curl")
	tool(t, "make", "make")
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	grpc, http, ops := freeAddr(t), freeAddr(t), freeAddr(t)
	here := strings.NewReplacer("127.0.0.1:8980", grpc, "127.0.0.1:8981", http, "127.0.0.1:8982", ops, "./.prism", data)
	blocks := parseConsole(here.Replace(string(text)))
	if len(blocks) < 4 || blocks[0].commands != "make run\n" {
		t.Fatalf("the README does not begin with make run: %+v", blocks)
	}
	first := &blocks[0]
	first.commands = "make run >'" + data + "/log' &\nuntil curl -sf http://" + ops + "/readyz >/dev/null; do sleep 0.1; done\ncat '" + data + "/log'\n"
	first.want = regexp.MustCompile(`\d+ms`).ReplaceAllString(first.want, "…") + "…" // and what to try
	outputs, log := runBlocks(t, blocks, root, append(os.Environ(),
		"MAKEFLAGS=", "MAKELEVEL=", "XDG_CONFIG_HOME="+data, "PRISM_CONFIG=", "PRISM_ADDR="+grpc,
		"PRISM_GRPC_ADDR="+grpc, "PRISM_HTTP_ADDR="+http, "PRISM_OPS_ADDR="+ops, "PRISM_DATA_DIR="+data))
	for i, b := range blocks {
		switch {
		case i >= len(outputs):
			t.Fatalf("README.md:%d: a command failed:\n%s", b.line, log)
		case !b.matches(ended(outputs[i])):
			t.Errorf("README.md:%d: printed\n%s\nwant\n%s", b.line, outputs[i], b.want)
		}
	}
}

// ended is a text with an end to its last line, as a page shows it.
func ended(text string) string { return strings.TrimSuffix(text, "\n") + "\n" }

// parseConsole returns the commands of the console blocks, which stand behind
// $, with the output below each.
func parseConsole(page string) (blocks []block) {
	for _, at := range fenced.FindAllStringSubmatchIndex(page, -1) {
		if page[at[2]:at[3]] != "console" {
			continue
		}
		line := strings.Count(page[:at[4]], "\n")
		for text := range strings.Lines(page[at[4]:at[5]]) {
			line++
			if command, ok := strings.CutPrefix(text, "$ "); ok {
				blocks = append(blocks, block{line: line, commands: command, compare: true})
			} else if n := len(blocks); n > 0 {
				blocks[n-1].want += text
			}
		}
	}
	return blocks
}

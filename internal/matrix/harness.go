package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A harness is one place in a test file that runs a suite: a literal such as
// drivertest.Harness{Name: "redis", …}.
type harness struct {
	column
	dir  string // of the package, below the root
	test string // the function that holds it
}

// suites are those that the literals of a type belong to.
var suites = map[string]string{
	"drivertest.Harness":       "drivertest",
	"drivertest.BlobHarness":   "blob",
	"drivertest.PubSubHarness": "pubsub",
	"drivertest.LogHarness":    "log",
	"drivertest.QueueHarness":  "queue",
	"patterntest.Harness":      "patterntest",
}

// harnesses returns every harness in a test file below root that has a name.
func harnesses(root string) ([]harness, error) {
	var found []harness
	for _, top := range []string{"driver", "pattern"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(file, "_test.go") {
				return err
			}
			in, err := harnessesIn(file)
			for i := range in {
				if in[i].dir, err = filepath.Rel(root, filepath.Dir(file)); err != nil {
					return err
				}
			}
			found = append(found, in...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	seen := map[column]bool{}
	for _, h := range found {
		if seen[h.column] {
			return nil, fmt.Errorf("two harnesses of %s are named %q", h.Suite, h.Name)
		}
		seen[h.column] = true
	}
	return found, nil
}

func harnessesIn(file string) (found []harness, err error) {
	text, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(text, []byte("Harness{")) {
		return nil, err
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, declared := range parsed.Decls {
		function, ok := declared.(*ast.FuncDecl)
		if !ok {
			continue
		}
		ast.Inspect(function, func(n ast.Node) bool {
			suite, name, e := harnessOf(n)
			if e != nil {
				err = fmt.Errorf("%s: %s: %w", file, function.Name.Name, e)
			}
			if name != "" {
				found = append(found, harness{column{suite, name}, "", function.Name.Name})
			}
			return true
		})
	}
	return found, err
}

// harnessOf returns the suite and the name of a harness's literal.
func harnessOf(n ast.Node) (suite, name string, err error) {
	literal, ok := n.(*ast.CompositeLit)
	if !ok {
		return "", "", nil
	}
	selector, ok := literal.Type.(*ast.SelectorExpr)
	if !ok {
		return "", "", nil
	}
	pkg, ok := selector.X.(*ast.Ident)
	if !ok {
		return "", "", nil
	}
	suite, ok = suites[pkg.Name+"."+selector.Sel.Name]
	if !ok {
		return "", "", nil
	}
	for _, element := range literal.Elts {
		field, ok := element.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		if key, ok := field.Key.(*ast.Ident); !ok || key.Name != "Name" {
			continue
		}
		value, ok := field.Value.(*ast.BasicLit)
		if !ok {
			return "", "", fmt.Errorf("the Name of a %s.%s is no literal, so that docs/backends.md cannot tell which runs there are", pkg.Name, selector.Sel.Name)
		}
		name, err = strconv.Unquote(value.Value)
	}
	return suite, name, err
}

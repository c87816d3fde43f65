package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prismgw/prism/internal/arch"
)

// contracts are the packages whose text is the point of them.
var contracts = []string{"driver", "errs", "pattern"}

// suites are conformance suites and what only tests use: they count neither as
// tests nor as code.
var suites = []string{"driver/drivertest", "pattern/patterntest", "internal/testutil"}

// A sample is a measured number and where it was found.
type sample struct {
	n  int
	at string
}

// tree is what was measured. Generated files are left out of all of it, test
// files of everything but testLines.
type tree struct {
	root string
	fset *token.FileSet

	packages                       map[string]bool  // by folder: whether it has a package comment
	undocumented, inits            []string         // where
	functions, files               []sample         // lines
	interfaces                     []sample         // methods
	exports                        map[string]int   // names by package
	contracts                      map[string]lines // by contract package
	implementation                 lines
	codeLines, testLines, modFiles int
}

// lines counts lines that are not blank; a line with both counts as both.
type lines struct{ code, comment int }

func measure(root string) (*tree, error) {
	t := &tree{root: root, fset: token.NewFileSet(), packages: map[string]bool{}, exports: map[string]int{}, contracts: map[string]lines{}}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == "go.mod":
			t.modFiles++
		case d.IsDir() && file != root && arch.Skip(file):
			return filepath.SkipDir
		case !d.IsDir() && filepath.Ext(file) == ".go":
			return t.addFile(file)
		}
		return nil
	})
	return t, err
}

func (t *tree) addFile(file string) error {
	src, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	parsed, err := parser.ParseFile(t.fset, file, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	if ast.IsGenerated(parsed) {
		return nil
	}
	pkg, err := filepath.Rel(t.root, filepath.Dir(file))
	if err != nil {
		return err
	}
	pkg = filepath.ToSlash(pkg)
	counted := count(src)
	if strings.HasSuffix(file, "_test.go") {
		t.testLines += counted.code
		return nil
	}
	t.addLines(pkg, file, counted, strings.Count(string(src), "\n"))
	t.packages[pkg] = t.packages[pkg] || parsed.Doc != nil
	for _, decl := range parsed.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			t.addFunc(pkg, d)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				t.addSpec(pkg, d, spec)
			}
		}
	}
	ast.Inspect(parsed, t.addInterface)
	return nil
}

func (t *tree) addLines(pkg, file string, counted lines, total int) {
	t.files = append(t.files, sample{total, t.relative(file)})
	if !slices.ContainsFunc(suites, func(s string) bool { return pkg == s || strings.HasPrefix(pkg, s+"/") }) {
		t.codeLines += counted.code
	}
	if slices.Contains(contracts, pkg) {
		t.contracts[pkg] = t.contracts[pkg].plus(counted)
		return
	}
	t.implementation = t.implementation.plus(counted)
}

func (t *tree) addFunc(pkg string, f *ast.FuncDecl) {
	first, last := t.fset.Position(f.Pos()), t.fset.Position(f.End())
	t.functions = append(t.functions, sample{last.Line - first.Line + 1, t.where(f.Pos(), f.Name.Name)})
	receiver, method := receiverOf(f)
	switch {
	case f.Name.Name == "init" && !method:
		t.inits = append(t.inits, t.where(f.Pos(), "init"))
	case !f.Name.IsExported():
		return
	case !method:
		t.exports[pkg]++
	case !ast.IsExported(receiver):
		return
	}
	if f.Name.IsExported() && f.Doc == nil {
		t.undocumented = append(t.undocumented, t.where(f.Pos(), f.Name.Name))
	}
}

// receiverOf returns the name of a method's type.
func receiverOf(f *ast.FuncDecl) (name string, method bool) {
	if f.Recv == nil {
		return "", false
	}
	expr := f.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name, true
		default:
			return "", true
		}
	}
}

// addSpec counts what a type, const or var declares. The comment of a group
// speaks for its members, and so does a comment at the end of a member's line.
func (t *tree) addSpec(pkg string, d *ast.GenDecl, spec ast.Spec) {
	documented := d.Doc != nil
	var names []*ast.Ident
	switch s := spec.(type) {
	case *ast.TypeSpec:
		names, documented = []*ast.Ident{s.Name}, documented || s.Doc != nil
	case *ast.ValueSpec:
		names, documented = s.Names, documented || s.Doc != nil || s.Comment != nil
	}
	for _, name := range names {
		if !name.IsExported() {
			continue
		}
		t.exports[pkg]++
		if !documented {
			t.undocumented = append(t.undocumented, t.where(name.Pos(), name.Name))
		}
	}
}

// addInterface counts the methods that an interface lists; one that it embeds
// counts as one. Sets of types for generics are not interfaces of this kind.
func (t *tree) addInterface(node ast.Node) bool {
	spec, ok := node.(*ast.TypeSpec)
	if !ok {
		return true
	}
	if i, ok := spec.Type.(*ast.InterfaceType); ok {
		if n := i.Methods.NumFields(); n > 0 {
			t.interfaces = append(t.interfaces, sample{n, t.where(spec.Pos(), spec.Name.Name)})
		}
	}
	return true
}

func (t *tree) where(pos token.Pos, name string) string {
	p := t.fset.Position(pos)
	return fmt.Sprintf("%s:%d %s", t.relative(p.Filename), p.Line, name)
}

func (t *tree) relative(file string) string {
	if rel, err := filepath.Rel(t.root, file); err == nil {
		return filepath.ToSlash(rel)
	}
	return file
}

func (l lines) plus(o lines) lines { return lines{l.code + o.code, l.comment + o.comment} }

// share returns the percentage of comment.
func (l lines) share() int { return 100 * l.comment / max(l.code+l.comment, 1) }

// count tells lines of code from lines of comment.
func count(src []byte) lines {
	fset := token.NewFileSet()
	file := fset.AddFile("", -1, len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, scanner.ScanComments)
	code, comment := map[int]bool{}, map[int]bool{}
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			break
		}
		if tok == token.SEMICOLON && text == "\n" {
			continue // put in by the scanner
		}
		kind := code
		if tok == token.COMMENT {
			kind = comment
		}
		first := file.Line(pos)
		for line := range strings.Count(text, "\n") + 1 {
			kind[first+line] = true
		}
	}
	return lines{len(code), len(comment)}
}

// Package arch reads who imports whom in this module, and keeps the rules about
// it: rules_test.go holds them as a table with reasons, and its tests fail on
// an import that the table does not allow. Only tools of this repository use it.
package arch

import (
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Module is the module as its imports show it. Packages are named by their
// folder below the module's root; the root itself is ".".
type Module struct {
	Path     string             // "github.com/prismgw/prism"
	Requires []string           // the modules it depends on directly, sorted
	Packages map[string]Package // by folder
}

// A Package is what one folder imports, each once and sorted: packages of this
// module by their folder, others by their import path.
type Package struct {
	Imports     []string // of what ships
	TestImports []string // of its test files
}

// Load reads go.mod and every Go file below root, whatever its build tags.
// Hidden folders, testdata and nested modules are left out.
func Load(root string) (*Module, error) {
	m := &Module{Packages: map[string]Package{}}
	if err := m.loadModFile(root); err != nil {
		return nil, err
	}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != root && Skip(file):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(file) != ".go":
			return nil
		}
		return m.loadFile(root, file)
	})
	return m, err
}

// Skip reports whether a folder holds none of this module's packages: it is
// hidden, testdata, or a module of its own.
func Skip(dir string) bool {
	base := filepath.Base(dir)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func (m *Module) loadModFile(root string) error {
	cmd := exec.Command("go", "mod", "edit", "-json") //nolint:noctx // it ends by itself, in milliseconds
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go mod edit -json in %s: %w", root, err)
	}
	var mod struct {
		Module  struct{ Path string }
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		return fmt.Errorf("go mod edit -json in %s: %w", root, err)
	}
	m.Path = mod.Module.Path
	for _, r := range mod.Require {
		if !r.Indirect {
			m.Requires = append(m.Requires, r.Path)
		}
	}
	slices.Sort(m.Requires)
	return nil
}

func (m *Module) loadFile(root, file string) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		return err
	}
	dir, err := filepath.Rel(root, filepath.Dir(file))
	if err != nil {
		return err
	}
	dir = filepath.ToSlash(dir)
	pkg := m.Packages[dir]
	imports := &pkg.Imports
	if strings.HasSuffix(file, "_test.go") {
		imports = &pkg.TestImports
	}
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return fmt.Errorf("%s: import %s: %w", file, spec.Path.Value, err)
		}
		if at, found := slices.BinarySearch(*imports, m.local(name)); !found {
			*imports = slices.Insert(*imports, at, m.local(name))
		}
	}
	m.Packages[dir] = pkg
	return nil
}

// local returns the folder of a package of this module, and any other import
// path as it is.
func (m *Module) local(name string) string {
	if name == m.Path {
		return "."
	}
	return strings.TrimPrefix(name, m.Path+"/")
}

// LongestChain returns one of the longest chains of imports between packages of
// this module, each importing the next. Test files do not count.
func (m *Module) LongestChain() []string {
	chains := map[string][]string{}
	var longest []string
	for _, name := range slices.Sorted(maps.Keys(m.Packages)) {
		if chain := m.chain(name, chains); len(chain) > len(longest) {
			longest = chain
		}
	}
	return longest
}

func (m *Module) chain(name string, known map[string][]string) []string {
	if chain, ok := known[name]; ok {
		return chain
	}
	var longest []string
	for _, imported := range m.Packages[name].Imports {
		if _, ours := m.Packages[imported]; !ours {
			continue
		}
		if chain := m.chain(imported, known); len(chain) > len(longest) {
			longest = chain
		}
	}
	known[name] = append([]string{name}, longest...)
	return known[name]
}

// Match reports whether a package is meant by a pattern: "driver" is that
// package, "driver/*" each one directly below it, "driver/..." it and everything
// below it.
func Match(pattern, pkg string) bool {
	if parent, all := strings.CutSuffix(pattern, "/..."); all {
		return pkg == parent || strings.HasPrefix(pkg, parent+"/")
	}
	ok, err := path.Match(pattern, pkg)
	return ok && err == nil
}

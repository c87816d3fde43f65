package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// config is the configuration file.
type config struct {
	Current  string           `yaml:"current,omitempty"`
	Contexts []*contextConfig `yaml:"contexts"`
}

// A contextConfig is a set of global flags under a name. Empty ones say
// nothing.
type contextConfig struct {
	Name      string `json:"name" yaml:"name"`
	Addr      string `json:"addr,omitempty" yaml:"addr,omitempty"`
	Namespace string `json:"namespace,omitempty" yaml:"namespace,omitempty"`
	Pattern   string `json:"pattern,omitempty" yaml:"pattern,omitempty"`
	Output    string `json:"output,omitempty" yaml:"output,omitempty"`
	Timeout   string `json:"timeout,omitempty" yaml:"timeout,omitempty"`
	Plaintext bool   `json:"plaintext,omitempty" yaml:"plaintext,omitempty"`
}

// flags returns what the context says, by the flags' names.
func (c *contextConfig) flags() map[string]string {
	m := map[string]string{
		"addr": c.Addr, "namespace": c.Namespace, "pattern": c.Pattern, "output": c.Output, "timeout": c.Timeout,
	}
	if c.Plaintext {
		m["plaintext"] = strconv.FormatBool(true)
	}
	return m
}

// configPath returns where the configuration file is or would be.
func configPath() string {
	if path := os.Getenv("PRISM_CONFIG"); path != "" {
		return path
	}
	dir := os.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) { // so says the XDG specification
		dir = filepath.Join(os.Getenv("HOME"), ".config")
	}
	return filepath.Join(dir, "prism", "prismctl.yaml")
}

// readConfig reads the configuration file; a missing one is empty.
func readConfig() (*config, error) {
	path := configPath()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return new(config), nil
	}
	if err != nil {
		return nil, usage(err, "name another file with PRISM_CONFIG")
	}
	c := new(config)
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return nil, usage(fmt.Errorf("%s: %w", path, err), "correct the file, or name another one with PRISM_CONFIG")
	}
	for i, one := range c.Contexts {
		if one == nil || one.Name == "" {
			return nil, usage(nil, "%s: context %d has no name; add one", path, i+1)
		}
	}
	return c, nil
}

// write replaces the file in one step. Only the user may read it.
func (c *config) write() error {
	path := configPath()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	data, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".prismctl-*") // its mode is 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// find returns the context of a name, nil if there is none.
func (c *config) find(name string) *contextConfig {
	i := slices.IndexFunc(c.Contexts, func(one *contextConfig) bool { return one.Name == name })
	if i < 0 {
		return nil
	}
	return c.Contexts[i]
}

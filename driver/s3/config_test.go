package s3_test

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/driver/s3"
	"github.com/prismgw/prism/errs"
)

func TestConfigurationsThatAreRight(t *testing.T) {
	t.Parallel()
	for _, c := range []driver.Config{
		{URL: "s3://bucket?region=eu-central-1"},
		{URL: "s3://my.bucket/team/a?region=eu-central-1", TLS: &tls.Config{}},
		{URL: "s3://bucket?endpoint=http://127.0.0.1:9000"},
		{URL: "s3://bucket/?endpoint=https://store:9000/&region=r", TLS: &tls.Config{}},
		{URL: "s3://bucket?endpoint=http://[::1]:9000", Options: []byte(`{"path_style": false, "part_size": 5242880, "max_object": 1, "conditional": false, "connect_timeout": "1s", "answer_timeout": "1s", "abandon_after": "1h"}`)},
		{URL: "s3://bucket?region=r", Asserts: []byte(`{"survives": "node"}`)},
	} {
		conn, err := s3.Driver().Open(c)
		if err != nil {
			t.Errorf("%s: %v", c.URL, err)
			continue
		}
		must(t, conn.Close())
	}
}

func TestConfigurationsThatAreWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url, options, asserts string
		tls                   bool
		paths                 string
	}{
		{url: "", paths: "url"},
		{url: "bucket", paths: "url"},
		{url: "http://bucket?region=r", paths: "url"},
		{url: "s3:bucket?region=r", paths: "url"},
		{url: "s3://?region=r", paths: "url"},
		{url: "s3://bucket:9000?region=r", paths: "url"},
		{url: "s3://ak:secret@bucket?region=r", paths: "url"},
		{url: "s3://bucket", paths: "url"},
		{url: "s3://bucket?region=", paths: "url"},
		{url: "s3://bucket?region=a&region=b", paths: "url"},
		{url: "s3://bucket?region=a b", paths: "url"},
		{url: "s3://bucket?region=r&use_path_style=true", paths: "url"},
		{url: "s3://bucket?region=r#here", paths: "url"},
		{url: "s3://bucket/a//b?region=r", paths: "url"},
		{url: "s3://bucket/../b?region=r", paths: "url"},
		{url: "s3://bucket/" + strings.Repeat("a", 64) + "?region=r", paths: "url"},
		{url: "s3://bucket?endpoint=127.0.0.1:9000", paths: "url"},
		{url: "s3://bucket?endpoint=ftp://store", paths: "url"},
		{url: "s3://bucket?endpoint=http://ak:secret@store", paths: "url"},
		{url: "s3://bucket?endpoint=http://store/bucket", paths: "url"},
		{url: "s3://bucket?endpoint=http://store", tls: true, paths: "tls"},
		{url: "s3://bucket?region=r", options: `{"part_size": 1}`, paths: "options.part_size"},
		{url: "s3://bucket?region=r", options: `{"part_size": 1000000000}`, paths: "options.part_size"},
		{url: "s3://bucket?region=r", options: `{"max_object": 0, "connect_timeout": "1ms", "answer_timeout": "1ms", "abandon_after": "1m"}`, paths: "options.max_object options.connect_timeout options.answer_timeout options.abandon_after"},
		{url: "s3://bucket?region=r", options: `{"max_object": 5368709121}`, paths: "options.max_object"},
		{url: "s3://bucket?region=r", options: `{"parts": 1}`, paths: "options"},
		{url: "s3://bucket?region=r", asserts: `{"survives": "everything"}`, paths: "asserts.survives"},
		{url: "s3://bucket?region=r", asserts: `{"durable": true}`, paths: "asserts"},
		{url: "s3:", options: `[]`, asserts: `{"survives": ""} x`, paths: "url options asserts"},
	} {
		config := driver.Config{Name: "main", URL: c.url, Options: []byte(c.options), Asserts: []byte(c.asserts)}
		if c.tls {
			config.TLS = &tls.Config{}
		}
		_, err := s3.Driver().Open(config)
		if got := fields(err); !slices.Equal(got, strings.Fields(c.paths)) {
			t.Errorf("%+v: %q (%v), want %s", c, got, err, c.paths)
		}
		if err != nil && strings.Contains(err.Error(), "ak:") {
			t.Errorf("%s: the error shows the password: %v", c.url, err)
		}
	}
}

func TestLayoutsAreRefused(t *testing.T) {
	t.Parallel()
	conn, err := s3.Driver().Open(driver.Config{URL: "s3://bucket?region=r"})
	must(t, err)
	defer conn.Close()
	_, err = conn.Space(driver.Space{Namespace: "n", Pattern: "p", Layout: []byte(`{}`)})
	wants(t, "a layout", err, errs.InvalidField)
}

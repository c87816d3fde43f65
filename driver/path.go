package driver

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// LocalPath returns the absolute path that the url of an embedded technology
// names: "scheme:path", relative to dir, or "scheme:///absolute/path". Errors
// repeat the url, which holds no password.
func LocalPath(text, scheme, dir string) (string, error) {
	advice := "write " + scheme + ":path or " + scheme + ":///absolute/path"
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != scheme:
		return "", fmt.Errorf("%q is not of this driver; %s", text, advice)
	case u.Host != "" || u.User != nil:
		return "", fmt.Errorf("%q names a host; %s", text, advice)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("%q has a query or a fragment; settings are options, and ? and # of a path are written %%3F and %%23", text)
	}
	path := u.Path
	if u.Opaque != "" {
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return "", fmt.Errorf("%q has a wrong %% escape", text)
		}
	}
	switch {
	case path == "":
		return "", fmt.Errorf("%q names nothing; %s", text, advice)
	case strings.ContainsRune(path, 0):
		return "", fmt.Errorf("the path in %q has a NUL", text)
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return filepath.Abs(path)
}

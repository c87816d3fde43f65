package keyvalue

import (
	"encoding/json"
	"time"

	"github.com/prismgw/prism/driver"
	"github.com/prismgw/prism/errs"
)

// settings are what a Namespace document may say about the pattern.
type settings struct {
	// DefaultTTL is given to every value that is stored without one; without
	// it such values never expire.
	DefaultTTL driver.Duration `json:"default_ttl"`
}

func decodeSettings(raw json.RawMessage) (settings, error) {
	var set settings
	if err := driver.DecodeStrict(raw, &set); err != nil {
		return set, errs.Invalid(errs.Field{Path: "settings", Text: err.Error()})
	}
	if set.DefaultTTL != 0 {
		if f, ok := checkTTL(time.Duration(set.DefaultTTL)); !ok {
			f.Path = "settings.default_ttl"
			return set, errs.Invalid(f)
		}
	}
	return set, nil
}

package signing

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/prismgw/prism/envelope"
	"github.com/prismgw/prism/errs"
)

// Bounds of a secret, in bytes. HMAC-SHA256 gains nothing by more.
const minSecret, maxSecret = 32, 64

// idForm is shorter than any secret in base64, so that whoever mixes the two up
// finds no key in a message.
var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

const example = `write {"current": "2026-11", "keys": {"2026-11": "BASE64"}}`

// A written ring is one as its text says it.
type written struct {
	current string
	ids     []string // in the order of the text
	secrets map[string][]byte
	wrong   []string
}

// parse reads a ring. Its error says all that is wrong, and shows no key.
func parse(text string) (*envelope.Ring, error) {
	w := &written{secrets: make(map[string][]byte)}
	d := json.NewDecoder(strings.NewReader(text))
	if err := w.read(d); err != nil {
		// What the decoder says of it may quote the text.
		return nil, errs.New(errs.InvalidConfiguration, "the text is not a ring of keys (at byte %d); %s", d.InputOffset(), example)
	}
	w.check()
	if len(w.wrong) > 0 {
		return nil, errs.New(errs.InvalidConfiguration, "%s", strings.Join(w.wrong, "; "))
	}
	current := envelope.SigningKey{ID: w.current, Secret: w.secrets[w.current]}
	var previous []envelope.SigningKey
	for _, id := range w.ids {
		if id != w.current {
			previous = append(previous, envelope.SigningKey{ID: id, Secret: w.secrets[id]})
		}
	}
	return envelope.NewRing(current, previous...)
}

func (w *written) mistake(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

var errForm = errors.New("another form")

// read reads the object, and that nothing follows it.
func (w *written) read(d *json.Decoder) error {
	seen := make(map[string]bool)
	err := object(d, func(name string) error {
		if seen[name] && (name == "current" || name == "keys") {
			w.mistake("%q is there twice; remove one", name)
		}
		seen[name] = true
		switch name {
		case "current":
			text, err := text(d)
			w.current = text
			return err
		case "keys":
			return object(d, func(id string) error { return w.key(d, id) })
		}
		w.mistake("%s is unknown; a ring has current and keys", shown(name))
		var skipped json.RawMessage
		return d.Decode(&skipped)
	})
	if err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errForm
	}
	return nil
}

// key reads the secret of one id.
func (w *written) key(d *json.Decoder, id string) error {
	text, err := text(d)
	if err != nil {
		return err
	}
	secret, err := base64.StdEncoding.Strict().DecodeString(text)
	_, twice := w.secrets[id]
	switch {
	case !idForm.MatchString(id):
		w.mistake("%s is no id of a key; write 1 to 32 letters, digits, dots, dashes and underscores", shown(id))
	case twice:
		w.mistake("the key %q is there twice; give each an id of its own", id)
	case err != nil:
		w.mistake("the key %q is not base64, with = at its end where it needs that; make one with: openssl rand -base64 32", id)
	case len(secret) < minSecret || len(secret) > maxSecret:
		w.mistake("the key %q has %d bytes; it must have %d to %d", id, len(secret), minSecret, maxSecret)
	}
	w.ids, w.secrets[id] = append(w.ids, id), secret
	return nil
}

// check finds what only the whole shows.
func (w *written) check() {
	switch _, found := w.secrets[w.current]; {
	case len(w.ids) == 0:
		w.mistake("there are no keys; %s", example)
	case w.current == "":
		w.mistake("current is missing; it is the id of the key that signs")
	case !found:
		w.mistake("current is %s, which is none of the keys", shown(w.current))
	}
	for i, id := range w.ids {
		same := func(other string) bool { return string(w.secrets[other]) == string(w.secrets[id]) }
		if k := slices.IndexFunc(w.ids[:i], same); k >= 0 && w.ids[k] != id && len(w.secrets[id]) > 0 {
			w.mistake("the keys %s and %s are the same; make a new one with: openssl rand -base64 32", shown(w.ids[k]), shown(id))
		}
	}
}

// shown is a name for a message, unless it may be a secret in the wrong place.
func shown(name string) string {
	if idForm.MatchString(name) {
		return fmt.Sprintf("%q", name)
	}
	return "a name (which is not shown)"
}

// object reads an object; each reads the value of a name.
func object(d *json.Decoder, each func(name string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errForm
	}
	for d.More() {
		name, err := text(d)
		if err != nil {
			return err
		}
		if err := each(name); err != nil {
			return err
		}
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		return errForm
	}
	return nil
}

func text(d *json.Decoder) (string, error) {
	t, err := d.Token()
	if s, ok := t.(string); ok && err == nil {
		return s, nil
	}
	return "", errForm
}

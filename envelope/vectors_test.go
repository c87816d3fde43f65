package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
	"github.com/prismgw/prism/envelope"
)

var update = flag.Bool("update", false, "write testdata/signatures.json anew")

const vectorsFile = "testdata/signatures.json"

// A vector is one envelope for implementations in any language: with a ring of
// the keys of its file, it is either accepted, or refused for the field named.
type vector struct {
	Name    string `json:"name"`
	Wire    string `json:"wire"`              // hex
	Signed  string `json:"signed,omitempty"`  // SHA-256 of what the signature covers; none if the wire is refused unread
	Mac     string `json:"mac,omitempty"`     // the signature that it should have, under the key that it names
	Verdict string `json:"verdict"`           // "good", or the field that is refused
	Message string `json:"message,omitempty"` // why
}

type vectors struct {
	Current  map[string]string `json:"current"` // key id to secret, in hex
	Previous map[string]string `json:"previous"`
	Vectors  []vector          `json:"vectors"`
}

var (
	currentKey  = envelope.SigningKey{ID: "2026-11", Secret: bytes.Repeat([]byte{0x0c}, 32)}
	previousKey = envelope.SigningKey{ID: "2026-10", Secret: bytes.Repeat([]byte{0x0b}, 48)}
)

func ring(t testing.TB) *envelope.Ring {
	t.Helper()
	r, err := envelope.NewRing(currentKey, previousKey)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func signed(t testing.TB, e *envelopev1.PrismEnvelope) []byte {
	t.Helper()
	wire, err := ring(t).Sign(e)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// TestVectors holds the shared vectors against the package, and both against a
// second implementation that shares no line with the first.
func TestVectors(t *testing.T) {
	t.Parallel()
	if *update {
		writeVectors(t)
	}
	file, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var all vectors
	if err := json.Unmarshal(file, &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Vectors) < 40 {
		t.Fatalf("only %d vectors", len(all.Vectors))
	}
	for _, v := range all.Vectors {
		wire, err := hex.DecodeString(v.Wire)
		if err != nil {
			t.Fatal(err)
		}
		h, err := ring(t).Verify(wire)
		if got := verdict(err); got != v.Verdict {
			t.Errorf("%s: %s (%v), want %s", v.Name, got, err, v.Verdict)
		}
		if v.Signed == "" {
			continue
		}
		input := covered(wire)
		if got := sha256.Sum256(input); hex.EncodeToString(got[:]) != v.Signed {
			t.Errorf("%s: the second implementation hashes something else", v.Name)
		}
		if good := v.Verdict == "good"; good != (hex.EncodeToString(h.Signature) == v.Mac) {
			t.Errorf("%s: %s, with signature %x beside %s", v.Name, v.Verdict, h.Signature, v.Mac)
		}
	}
}

func verdict(err error) string {
	if err == nil {
		return "good"
	}
	if paths := fieldsOf(err); len(paths) == 1 {
		return paths[0]
	}
	return err.Error()
}

// covered is the second implementation of what a signature covers. It is
// deliberately lenient: it takes fields twice and everything else that verifying
// refuses, so that the vectors which have that would verify if it did not.
func covered(wire []byte) []byte {
	out, payload := []byte("prism-envelope-1\x00"), []byte(nil)
	fields(wire, func(number protowire.Number, raw, body []byte) {
		switch number {
		case 99:
			payload = body
		case 2:
			var kept []byte
			fields(body, func(number protowire.Number, raw, _ []byte) {
				if number != 7 && number != 8 {
					kept = append(kept, raw...)
				}
			})
			out = protowire.AppendBytes(protowire.AppendTag(out, 2, protowire.BytesType), kept)
		default:
			out = append(out, raw...)
		}
	})
	hash := sha256.Sum256(payload)
	return append(out, hash[:]...)
}

func fields(wire []byte, each func(number protowire.Number, raw, body []byte)) {
	for len(wire) > 0 {
		tag, n := protowire.ConsumeVarint(wire)
		if n < 0 {
			return
		}
		number, kind := protowire.Number(int32(tag>>3)), protowire.Type(tag&7) // wraps, as generated decoders do
		size := protowire.ConsumeFieldValue(number, kind, wire[n:])
		if size < 0 {
			return
		}
		body, _ := protowire.ConsumeBytes(wire[n : n+size])
		each(number, wire[:n+size], body)
		wire = wire[n+size:]
	}
}

func macOf(key envelope.SigningKey, wire []byte) []byte {
	h := hmac.New(sha256.New, key.Secret)
	h.Write(covered(wire))
	return h.Sum(nil)
}

// hole is where a signature is to be.
var hole = bytes.Repeat([]byte{0xaa}, 32)

func signRaw(key envelope.SigningKey, wire []byte) []byte {
	return bytes.ReplaceAll(wire, hole, macOf(key, wire))
}

func text(number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, number, protowire.BytesType), s)
}

func number(field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), v)
}

func message(field protowire.Number, parts ...[]byte) []byte {
	return text(field, string(slices.Concat(parts...)))
}

func group(field protowire.Number, parts ...[]byte) []byte {
	start := protowire.AppendTag(nil, field, protowire.StartGroupType)
	return protowire.AppendTag(append(start, slices.Concat(parts...)...), field, protowire.EndGroupType)
}

func writeVectors(t *testing.T) {
	all := vectors{
		Current:  map[string]string{currentKey.ID: hex.EncodeToString(currentKey.Secret)},
		Previous: map[string]string{previousKey.ID: hex.EncodeToString(previousKey.Secret)},
	}
	add := func(name string, wire []byte) {
		v := vector{Name: name, Wire: hex.EncodeToString(wire)}
		_, err := ring(t).Verify(wire)
		if v.Verdict = verdict(err); err != nil {
			v.Message = err.Error()
		}
		if v.Verdict != "envelope" {
			key := currentKey
			if h, _ := envelope.Scan(wire); string(h.SigningKeyID) == previousKey.ID {
				key = previousKey
			}
			hash := sha256.Sum256(covered(wire))
			v.Signed, v.Mac = hex.EncodeToString(hash[:]), hex.EncodeToString(macOf(key, wire))
		}
		all.Vectors = append(all.Vectors, v)
	}
	good(add)
	changed(add)
	unsigned(add)
	ambiguous(add)
	file, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorsFile, append(file, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

var (
	meta     = message(1, text(1, otherID), text(2, "orders"), text(3, "shop"))
	algo     = number(9, 1)
	keyID    = text(10, currentKey.ID)
	sig      = text(8, string(hole))
	body     = text(99, "payload")
	plainSec = message(2, text(1, "svc"), text(5, "clerk"), algo, keyID, sig)
)

// good lists envelopes that verify.
func good(add func(string, []byte)) {
	sign := func(name string, parts ...[]byte) { add(name, signRaw(currentKey, slices.Concat(parts...))) }
	sign("as encoders write it", meta, plainSec, body)
	sign("payload first", body, meta, plainSec)
	sign("security first, payload in the middle", plainSec, body, meta)
	sign("security alone", plainSec)
	sign("no payload", meta, plainSec)
	sign("an empty payload: the same signature as none", meta, plainSec, text(99, ""))
	sign("no metadata", plainSec, body)
	sign("signature first", meta, message(2, sig, text(1, "svc"), algo, keyID), body)
	sign("signature in the middle", meta, message(2, text(1, "svc"), sig, algo, keyID), body)
	sign("a token in transit: the same signature as without", meta, message(2, text(1, "svc"), text(5, "clerk"), text(7, "token"), algo, keyID, sig), body)
	sign("a token behind the signature", meta, message(2, algo, keyID, sig, text(7, "token")), body)
	sign("unknown fields everywhere", message(1, text(2, "t"), text(77, "new")), message(2, algo, keyID, number(88, 5), sig), text(50, "new"), number(51, 7), body, text(52, "after"))
	sign("a field of metadata twice: the last one counts, both are covered", message(1, text(2, "a"), text(2, "b")), plainSec, body)
	sign("extensions, observability and schema", meta, plainSec, message(3, text(1, traceID)), message(4, text(1, "s")), message(97, text(1, "x-a"), text(2, "1")), message(97, text(1, "x-b"), text(2, "2")), body)
	sign("long forms of the payload's tag and length", meta, plainSec, []byte("\x9a\x86\x80\x00\x87\x80\x00payload"))
	sign("long form of the signature's tag", meta, message(2, algo, keyID, append([]byte("\xc2\x00\x20"), hole...)), body)
	sign("long form of the length of security: the same signature as the short one", meta, append([]byte{0x12, 0x80 | byte(len(plainSec)-2), 0}, plainSec[2:]...), body)
	add("the previous key", signRaw(previousKey, slices.Concat(meta, message(2, algo, text(10, previousKey.ID), sig), body)))
}

// changed lists envelopes that were altered after they had been signed.
func changed(add func(string, []byte)) {
	wire := signRaw(currentKey, slices.Concat(meta, plainSec, text(50, "new"), body))
	swap := func(name, old, to string) { add(name, bytes.Replace(wire, []byte(old), []byte(to), 1)) }
	swap("another payload", "payload", "paylord")
	swap("another topic", "orders", "ordure")
	swap("another role", "clerk", "admin")
	swap("another publisher", "svc", "svd")
	swap("an unknown field changed", "new", "old")
	swap("the previous key's name", currentKey.ID, previousKey.ID)
	add("the payload removed", bytes.TrimSuffix(wire, body))
	add("a field added", append(bytes.Clone(wire), text(51, "x")...))
	add("a field removed", bytes.Replace(wire, text(50, "new"), nil, 1))
	first := len(meta)
	second := first + len(plainSec)
	add("two fields in another order", slices.Concat(wire[first:second], wire[:first], wire[second:]))
	inside := wire[first+2 : second]
	moved := slices.Concat(meta, message(2, inside, text(50, "new")), body)
	add("a field moved from behind security into it", moved)
	role := text(5, "clerk")
	add("a field moved out of security", slices.Concat(meta, message(2, bytes.Replace(inside, role, nil, 1)), role, text(50, "new"), body))
	two := signRaw(currentKey, slices.Concat(message(2, algo, keyID, sig), message(1, text(2, "t"))))
	split := len(two) - len(message(1, text(2, "t")))
	add("metadata moved into security, where it is the publisher", message(2, two[2:split], two[split:]))
	add("signed with another key under this one's name", signRaw(previousKey, slices.Concat(meta, plainSec, body)))
	add("a signature cut to 31 bytes", slices.Concat(meta, message(2, algo, keyID, text(8, string(macOf(currentKey, wire)[:31]))), body))
	add("a signature of 33 bytes", signRaw(currentKey, slices.Concat(meta, message(2, algo, keyID, text(8, string(hole)+"x")), body)))
	add("a signature of zeros", slices.Concat(meta, message(2, algo, keyID, text(8, string(make([]byte, 32)))), body))
	h := hmac.New(sha256.New, currentKey.Secret)
	h.Write(bytes.TrimPrefix(covered(wire), []byte("prism-envelope-1\x00")))
	add("signed without the prefix", slices.Concat(meta, bytes.Replace(plainSec, hole, h.Sum(nil), 1), text(50, "new"), body))
}

// unsigned lists envelopes that say they need no signature, or name what is not
// there.
func unsigned(add func(string, []byte)) {
	sign := func(name string, parts ...[]byte) { add(name, signRaw(currentKey, slices.Concat(parts...))) }
	sign("nothing at all")
	sign("no security", meta, body)
	sign("no signature", meta, message(2, algo, keyID), body)
	sign("an empty signature", meta, message(2, algo, keyID, text(8, "")), body)
	sign("no algorithm", meta, message(2, keyID, sig), body)
	sign("the algorithm UNSPECIFIED", meta, message(2, number(9, 0), keyID, sig), body)
	sign("an algorithm of the future", meta, message(2, number(9, 99), keyID, sig), body)
	sign("no key id", meta, message(2, algo, sig), body)
	sign("an unknown key id", meta, message(2, algo, text(10, "2020-01"), sig), body)
}

// ambiguous lists what readers could read differently. Each has the signature
// that it would have if that were allowed.
func ambiguous(add func(string, []byte)) {
	sign := func(name string, parts ...[]byte) { add(name, signRaw(currentKey, slices.Concat(parts...))) }
	sign("two payloads", meta, plainSec, text(99, "other"), body)
	sign("two payloads, the second empty", meta, plainSec, body, text(99, ""))
	sign("metadata twice", meta, message(1, text(2, "other")), plainSec, body)
	sign("security twice", meta, plainSec, message(2, text(1, "root")), body)
	sign("observability twice", meta, plainSec, message(3), message(3), body)
	sign("schema twice", meta, plainSec, message(4), message(4), body)
	pii := number(12, 1)
	twice := func(name string, part []byte) {
		sign("security with "+name+" twice", meta, message(2, part, text(1, "svc"), text(7, "t"), algo, keyID, sig, pii), body)
	}
	twice("publisher_id", text(1, "root"))
	twice("auth_token", text(7, "other"))
	twice("signature", sig)
	twice("signature_algorithm", algo)
	twice("signing_key_id", keyID)
	twice("contains_pii", pii)
	sign("encryption twice", meta, message(2, algo, keyID, message(11, number(1, 1)), message(11, text(2, "k")), sig), body)
	sign("a group", meta, plainSec, group(60, text(1, "x")), body)
	sign("a group around a payload", meta, plainSec, group(60, body), body)
	sign("a group in security", meta, message(2, algo, keyID, group(60, sig), sig), body)
	sign("a group without an end", meta, plainSec, body, protowire.AppendTag(nil, 60, protowire.StartGroupType))
	sign("the payload as a number", meta, plainSec, number(99, 7))
	sign("the token as a number", meta, message(2, algo, keyID, number(7, 1), sig), body)
	sign("the signature as eight bytes", meta, message(2, algo, keyID, protowire.AppendFixed64(protowire.AppendTag(nil, 8, protowire.Fixed64Type), 1), sig), body)
	sign("the payload as four bytes", meta, plainSec, protowire.AppendFixed32(protowire.AppendTag(nil, 99, protowire.Fixed32Type), 1))
	sign("contains_pii as text", meta, message(2, algo, keyID, text(12, "yes"), sig), body)
	sign("the topic as a number", message(1, number(2, 7)), plainSec, body)
	sign("a field number of 33 bits that some decoders read as 99", meta, plainSec, protowire.AppendString(protowire.AppendVarint(nil, 1<<35|99<<3|2), "other"), body)
	sign("field number 0", meta, plainSec, []byte{0x02, 0x00}, body)
	sign("field number 0 with a number", meta, plainSec, []byte{0x00, 0x01}, body)
	sign("an extension whose key is not UTF-8", meta, plainSec, message(97, text(1, "\xff")), body)
	sign("a trace id as a number", meta, plainSec, message(3, number(1, 1)), body)
	sign("a schema that is cut off", meta, plainSec, message(4, []byte{0x0a, 0x05, 'a'}), body)
	sign("a key id of encryption as a number", meta, message(2, algo, keyID, message(11, number(2, 1)), sig), body)
	sign("wire type 7", meta, plainSec, body, []byte{60<<3&0x7f | 7 | 0x80, 60 >> 4})
	sign("a length past the end", meta, plainSec, body, []byte{0xa2, 0x06, 0x7f})
	sign("a length of 64 bits", meta, plainSec, body, []byte("\xa2\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	sign("a number of 70 bits", meta, plainSec, body, []byte("\xa0\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	sign("a topic that is not UTF-8", message(1, text(2, "\xff")), plainSec, body)
	sign("a role that is not UTF-8", meta, message(2, algo, keyID, text(5, "\xff"), sig), body)
}

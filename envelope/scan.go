package envelope

import (
	"iter"

	envelopev1 "github.com/prismgw/prism/api/prism/envelope/v1"
)

// A Header is metadata and security of an envelope, and where its payload is.
// Its slices are parts of the bytes that were scanned: they are valid, and
// unchanged, as long as those are. A field that is absent is empty.
//
// What it says is what the sender wrote. It is true only if Ring.Verify gave it.
type Header struct {
	MessageID         []byte
	Topic             []byte
	Namespace         []byte
	PublishedAtMs     int64
	ContentType       envelopev1.ContentType
	ContentTypeCustom []byte
	ContentEncoding   envelopev1.ContentEncoding
	Priority          int32
	TTLSeconds        int64
	CorrelationID     []byte
	CausalityParent   []byte
	PartitionKey      []byte
	RetryCount        int32
	ProducerID        []byte

	PublisherID         []byte
	PublisherTeam       []byte
	UserID              []byte
	TenantID            []byte
	SessionID           []byte
	AuthToken           []byte
	Signature           []byte
	SignatureAlgorithm  envelopev1.SignatureAlgorithm
	SigningKeyID        []byte
	Encrypted           bool // and the three that follow say how
	EncryptionAlgorithm envelopev1.EncryptionAlgorithm
	EncryptionKeyID     []byte
	Nonce               []byte
	ContainsPII         bool
	DataClassification  envelopev1.DataClassification

	Payload []byte

	wire      []byte
	protected []byte // the content of security
	// Where a signature has to look closer: fields 2 and 99 of the envelope
	// with their tags, fields 7 and 8 of security with theirs.
	security, payload, token, signature span
}

// Roles are the roles of who published.
func (h *Header) Roles() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for c := read(h.protected, security); c.more(); {
			if c.next() != nil || c.field.number == 5 && !yield(c.field.data) {
				return
			}
		}
	}
}

// Scan reads the header of an envelope, whatever the order of its fields, and
// copies nothing. It ignores fields that it does not know and refuses, as
// InvalidField, what is not valid protobuf and what two readers could read
// differently: a field of the envelope or of security twice, groups, a field
// with another one's wire type. What is over the limits is PayloadTooLarge.
func Scan(wire []byte) (Header, error) {
	h := Header{wire: wire}
	if err := h.scan(); err != nil {
		return Header{}, err
	}
	return h, nil
}

func (h *Header) scan() error {
	if len(h.wire) > MaxSize {
		return sizes(len(h.wire), 0)
	}
	var seen once
	for c := read(h.wire, envelope); c.more(); {
		if err := c.next(); err != nil {
			return err
		}
		if err := h.top(&c.field, &seen); err != nil {
			return err
		}
	}
	return sizes(len(h.wire), h.payload.end-h.payload.start)
}

func (h *Header) top(f *field, seen *once) error {
	switch f.number {
	case 1:
		if seen.again(1) {
			return errTwice
		}
		return h.scanMetadata(f.data)
	case 2:
		if seen.again(2) {
			return errTwice
		}
		h.security, h.protected = f.at, f.data
		return h.scanSecurity(f.data, f.body.start)
	case 3, 4:
		if seen.again(f.number) {
			return errTwice
		}
	case 99:
		if seen.again(5) {
			return errTwice
		}
		h.payload, h.Payload = f.at, f.data
	}
	return nil
}

func (h *Header) scanMetadata(data []byte) error {
	for c := read(data, metadata); c.more(); {
		if err := c.next(); err != nil {
			return err
		}
		h.setMetadata(&c.field)
	}
	return nil
}

func (h *Header) setMetadata(f *field) {
	switch f.number {
	case 1:
		h.MessageID = f.data
	case 2:
		h.Topic = f.data
	case 3:
		h.Namespace = f.data
	case 4:
		h.PublishedAtMs = int64(f.value)
	case 5:
		h.ContentType = envelopev1.ContentType(f.value)
	case 6:
		h.ContentTypeCustom = f.data
	case 7:
		h.ContentEncoding = envelopev1.ContentEncoding(f.value)
	case 8:
		h.Priority = int32(f.value)
	case 9:
		h.TTLSeconds = int64(f.value)
	case 10:
		h.CorrelationID = f.data
	case 11:
		h.CausalityParent = f.data
	case 12:
		h.PartitionKey = f.data
	case 13:
		h.RetryCount = int32(f.value)
	case 14:
		h.ProducerID = f.data
	}
}

// scanSecurity reads security, whose content begins at start of the envelope.
func (h *Header) scanSecurity(data []byte, start int) error {
	var seen once
	for c := read(data, security); c.more(); {
		if err := c.next(); err != nil {
			return err
		}
		f := &c.field
		if f.number <= 13 && f.number != 5 && seen.again(f.number) {
			return errTwice
		}
		f.at.start += start
		f.at.end += start
		h.setSecurity(f)
	}
	return nil
}

func (h *Header) setSecurity(f *field) {
	switch f.number {
	case 1:
		h.PublisherID = f.data
	case 2:
		h.PublisherTeam = f.data
	case 3:
		h.UserID = f.data
	case 4:
		h.TenantID = f.data
	case 6:
		h.SessionID = f.data
	case 7:
		h.AuthToken, h.token = f.data, f.at
	case 8:
		h.Signature, h.signature = f.data, f.at
	case 9:
		h.SignatureAlgorithm = envelopev1.SignatureAlgorithm(f.value)
	case 10:
		h.SigningKeyID = f.data
	case 11:
		h.scanEncryption(f.data)
	case 12:
		h.ContainsPII = f.value != 0
	case 13:
		h.DataClassification = envelopev1.DataClassification(f.value)
	}
}

// scanEncryption reads what the cursor has found to be well-formed.
func (h *Header) scanEncryption(data []byte) {
	h.Encrypted = true
	for c := read(data, encryption); c.more() && c.next() == nil; {
		switch c.field.number {
		case 1:
			h.EncryptionAlgorithm = envelopev1.EncryptionAlgorithm(c.field.value)
		case 2:
			h.EncryptionKeyID = c.field.data
		case 3:
			h.Nonce = c.field.data
		}
	}
}

// once knows which of a few fields were there.
type once uint32

// again notes that a field is there and reports whether it was before.
func (o *once) again(number uint64) bool {
	before := *o
	*o |= 1 << number
	return before == *o
}

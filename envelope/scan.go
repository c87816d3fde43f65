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
		c := read(h.protected, security)
		for c.more() {
			if c.next() != nil || c.number == 5 && !yield(c.data) {
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
func Scan(wire []byte) (h Header, err error) {
	h.wire = wire
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
	c := read(h.wire, envelope)
	for c.more() {
		if err := c.next(); err != nil {
			return err
		}
		if err := h.top(&c, &seen); err != nil {
			return err
		}
	}
	return sizes(len(h.wire), h.payload.end-h.payload.start)
}

func (h *Header) top(c *cursor, seen *once) error {
	switch c.number {
	case 1:
		if seen.again(1) {
			return errTwice
		}
		return h.scanMetadata(c.data)
	case 2:
		if seen.again(2) {
			return errTwice
		}
		h.security, h.protected = c.at, c.data
		return h.scanSecurity(c.data, c.at.end-len(c.data))
	case 3, 4:
		if seen.again(c.number) {
			return errTwice
		}
	case 99:
		if seen.again(5) {
			return errTwice
		}
		h.payload, h.Payload = c.at, c.data
	}
	return nil
}

func (h *Header) scanMetadata(data []byte) error {
	c := read(data, metadata)
	for c.more() {
		if err := c.next(); err != nil {
			return err
		}
		h.setMetadata(&c)
	}
	return nil
}

func (h *Header) setMetadata(c *cursor) {
	switch c.number {
	case 1:
		h.MessageID = c.data
	case 2:
		h.Topic = c.data
	case 3:
		h.Namespace = c.data
	case 4:
		h.PublishedAtMs = int64(c.value)
	case 5:
		h.ContentType = envelopev1.ContentType(c.value)
	case 6:
		h.ContentTypeCustom = c.data
	case 7:
		h.ContentEncoding = envelopev1.ContentEncoding(c.value)
	case 8:
		h.Priority = int32(c.value)
	case 9:
		h.TTLSeconds = int64(c.value)
	case 10:
		h.CorrelationID = c.data
	case 11:
		h.CausalityParent = c.data
	case 12:
		h.PartitionKey = c.data
	case 13:
		h.RetryCount = int32(c.value)
	case 14:
		h.ProducerID = c.data
	}
}

// scanSecurity reads security, whose content begins at start of the envelope.
func (h *Header) scanSecurity(data []byte, start int) error {
	var seen once
	c := read(data, security)
	for c.more() {
		if err := c.next(); err != nil {
			return err
		}
		if c.number <= 13 && c.number != 5 && seen.again(c.number) {
			return errTwice
		}
		h.setSecurity(&c, start)
	}
	return nil
}

func (h *Header) setSecurity(c *cursor, start int) {
	switch c.number {
	case 1:
		h.PublisherID = c.data
	case 2:
		h.PublisherTeam = c.data
	case 3:
		h.UserID = c.data
	case 4:
		h.TenantID = c.data
	case 6:
		h.SessionID = c.data
	case 7:
		h.AuthToken, h.token = c.data, c.at.plus(start)
	case 8:
		h.Signature, h.signature = c.data, c.at.plus(start)
	case 9:
		h.SignatureAlgorithm = envelopev1.SignatureAlgorithm(c.value)
	case 10:
		h.SigningKeyID = c.data
	case 11:
		h.scanEncryption(c.data)
	case 12:
		h.ContainsPII = c.value != 0
	case 13:
		h.DataClassification = envelopev1.DataClassification(c.value)
	}
}

// scanEncryption reads what the cursor has found to be well-formed.
func (h *Header) scanEncryption(data []byte) {
	h.Encrypted = true
	c := read(data, encryption)
	for c.more() && c.next() == nil {
		switch c.number {
		case 1:
			h.EncryptionAlgorithm = envelopev1.EncryptionAlgorithm(c.value)
		case 2:
			h.EncryptionKeyID = c.data
		case 3:
			h.Nonce = c.data
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

package driver

import (
	"context"
	"io"
	"time"
)

// Limits that hold on every Blob.
const (
	// MaxBlobKey is the most bytes of a key: object stores end at 1,024 with
	// the prefix of the space.
	MaxBlobKey = 512

	// MaxBlob is the size of the largest object of any Blob, in bytes.
	MaxBlob = 5 << 30

	// MaxMetadata is the most bytes of an object's metadata, names and values
	// together.
	MaxMetadata = 2 << 10
)

// Blob is the primitive of large objects: bytes under a key, written whole and
// read in ranges. A key is 1 to MaxBlobKey bytes of UTF-8 without NUL and
// otherwise any text: "a//b", "..", "A" and "a" are keys like all others, a
// slash divides nothing, and two forms of one character are two keys. Callers
// check that, drivers escape. The objects of a space and the entries of its KV
// know nothing of each other.
//
// An object is there whole or not at all. A Put that is acknowledged is visible
// to every call that begins afterwards, through any connection. One that fails,
// is cut off or dies with its process leaves what was there before; what it
// wrote until then no call ever shows, and it is removed when the backend is
// opened the next time at the latest (by the backend's own rules where it is a
// service of others). Only after errs.OutcomeUnknown, errs.Deadline and
// errs.Cancelled may a Put that failed have taken effect, and then as a whole.
//
// Both directions are streams: what a call needs of memory does not grow with
// the size of the object.
type Blob interface {
	// Put stores what r yields until io.EOF. An error of r is returned as it
	// is, and nothing is stored. A condition that does not hold may be
	// answered before r has been read. r is read by the goroutine that calls
	// Put and not after Put has returned. A context that ends is noticed
	// between two reads: whoever hands in a reader that may block for long ends
	// it with the context.
	Put(ctx context.Context, key string, r io.Reader, o PutOptions) (Object, error)

	// Get opens the object, or fails with errs.ObjectNotFound. The body yields
	// the bytes asked for and then io.EOF; it never ends so with fewer. It
	// belongs to the object that Get returned: when that is replaced or
	// deleted meanwhile, the body goes on with what was there, or fails with
	// errs.VersionMismatch. When the context ends, or the connection is closed,
	// reading fails. The caller closes the body, which does not read the rest,
	// and uses it from one goroutine at a time.
	Get(ctx context.Context, key string, o GetOptions) (Object, io.ReadCloser, error)

	// Stat returns what is known about the object, or errs.ObjectNotFound.
	Stat(ctx context.Context, key string) (Object, error)

	// Delete removes the objects of the keys and puts each outcome into the
	// result of the same index. An absent one is no error; a key may occur
	// twice. len(results) is len(keys); what was in results does not matter.
	Delete(ctx context.Context, keys []string, results []error)

	// List returns a page of the objects whose keys begin with the prefix.
	// Going from the zero cursor through every Next to the end returns each
	// object that was present all the time exactly once, in the order of the
	// keys' bytes; those that come or go meanwhile may be in it or not. A page
	// may be empty and yet have a Next. A cursor keeps its meaning when the
	// connection is closed and opened again; one that this driver never gave
	// out for this prefix is errs.InvalidCursor.
	List(ctx context.Context, r ListRequest) (ObjectPage, error)

	// Guarantees returns what this Blob promises beyond the contract. It never
	// changes while the connection is open.
	Guarantees() BlobGuarantees
}

// An Object is what is known about an object.
type Object struct {
	Key      string
	Size     int64             // of the whole object, whatever range was asked for
	Version  string            // opaque text of the form of Entry.Version; no digest of the content
	Modified time.Time         // when it was put, by the backend's clock, true to the second; Put leaves it zero
	Metadata map[string]string // what Put was given; Put and List leave it nil
}

// PutOptions are what a Put may ask for.
type PutOptions struct {
	// Size is how many bytes r yields; another number is errs.InvalidField
	// for "size". 0: not known. Stores of others are quicker, and refuse
	// objects that are too large earlier, where it is known.
	Size int64

	// Metadata is kept with the object: names of a-z 0-9 - that begin with a
	// letter, values of printable ASCII without a space at either end. Callers
	// check that, and that it is no more than MaxMetadata. A Put replaces all
	// of it.
	Metadata map[string]string

	// IfAbsent makes it happen only if there is no object, else
	// errs.AlreadyExists with the metadata "version".
	IfAbsent bool

	// IfVersion makes it happen only if the object has this version, else
	// errs.VersionMismatch with the metadata "current" (absent if the object
	// is). Together with IfAbsent it is errs.InvalidField.
	IfVersion string
}

// GetOptions are what a Get may ask for.
type GetOptions struct {
	// Offset is that of the first byte. Behind the last one the body is empty,
	// and what is beyond that is errs.OutOfRange.
	Offset int64

	// Length is how many bytes at most; 0: to the end.
	Length int64

	// IfVersion makes it succeed only if the object has this version, else
	// errs.VersionMismatch with the metadata "current"; an absent object is
	// errs.ObjectNotFound.
	IfVersion string
}

// A ListRequest asks for one page.
type ListRequest struct {
	Prefix string
	Cursor []byte // nil: from the beginning; else a Next of the same prefix
	Limit  int    // at most so many objects; at least 1
}

// An ObjectPage is one page of a list.
type ObjectPage struct {
	Objects []Object
	Next    []byte // nil at the end; at most MaxBlobKey+64 bytes
}

// BlobGuarantees are the differences of quality between technologies that
// patterns compare when configuration loads.
type BlobGuarantees struct {
	// Version says what a version identifies. Under ContentVersions a Put of
	// the same bytes may keep the version.
	Version VersionKind

	// Conditional: the conditions of a Put are atomic with it. false: a Put
	// with a condition is errs.Unsupported.
	Conditional bool

	ListCost  ScanCost // ScanKeyspace: everything that the space holds
	MaxObject int64    // bytes, at most MaxBlob; more is errs.PayloadTooLarge
	Shared    bool     // several processes may open the same backend
	Ack       Ack      // what an OK survives, with the settings as they are
}

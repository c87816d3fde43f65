package consumer

import (
	"encoding/base64"
	"encoding/binary"

	"github.com/prismgw/prism/driver"
)

// A receipt names one handing out of one record: which partition, in whose
// ownership, where, and which time.
type receipt struct {
	partition int
	nonce     uint64
	at        driver.Position
	turn      uint32
}

// receiptSize is its size in bytes: 4 for the partition, 8, 8 and 4.
const receiptSize = 24

func (r receipt) String() string {
	b := make([]byte, 0, receiptSize)
	b = binary.BigEndian.AppendUint32(b, uint32(r.partition))
	b = binary.BigEndian.AppendUint64(b, r.nonce)
	b = binary.BigEndian.AppendUint64(b, uint64(r.at))
	b = binary.BigEndian.AppendUint32(b, r.turn)
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseReceipt reads a receipt. What it says may be anything.
func parseReceipt(s string) (receipt, bool) {
	if len(s) != base64.RawURLEncoding.EncodedLen(receiptSize) {
		return receipt{}, false
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return receipt{}, false
	}
	return receipt{
		partition: int(binary.BigEndian.Uint32(b)),
		nonce:     binary.BigEndian.Uint64(b[4:]),
		at:        driver.Position(binary.BigEndian.Uint64(b[12:])),
		turn:      binary.BigEndian.Uint32(b[20:]),
	}, true
}

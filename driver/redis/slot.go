package redis

import (
	"strconv"
	"strings"
	"sync"
)

const slots = 16384 // of a Cluster

// slotOf returns the slot of a Cluster that a key belongs to.
func slotOf(key string) int {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16 // CRC-16/XMODEM
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % slots)
}

// slotTags returns for each slot a hash tag that belongs to it.
var slotTags = sync.OnceValue(func() *[slots]string {
	var tags [slots]string
	for n, missing := 0, slots; missing > 0; n++ {
		tag := strconv.FormatInt(int64(n), 36)
		if slot := slotOf(tag); tags[slot] == "" {
			tags[slot] = tag
			missing--
		}
	}
	return &tags
})

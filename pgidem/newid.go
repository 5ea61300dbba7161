package pgidem

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// NewID returns a random time-ordered ID, a UUID of version 7 (RFC 9562, section 5.7), for clients that make their
// own keys: draw it once per operation, keep it, and send the same one with every retry. IDs made in the same
// millisecond are in no particular order.
func NewID() string {
	var id [16]byte
	_, _ = rand.Read(id[6:]) // crypto/rand never returns an error; it ends the program where there is no randomness.
	var now [8]byte
	binary.BigEndian.PutUint64(now[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], now[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return formatUUID(id)
}

// newToken returns 128 random bits in the text form of a UUID: a claim token.
func newToken() string {
	var token [16]byte
	_, _ = rand.Read(token[:])
	return formatUUID(token)
}

func formatUUID(id [16]byte) string {
	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

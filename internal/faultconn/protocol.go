package faultconn

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Message types as the PostgreSQL manual gives them, chapter "Frontend/Backend
// Protocol", section "Message Formats". The same byte may mean one thing from
// the client and another from the server.
const (
	// From the client.
	Bind      byte = 'B'
	Close     byte = 'C'
	Describe  byte = 'D'
	Execute   byte = 'E'
	Flush     byte = 'H'
	Parse     byte = 'P'
	Query     byte = 'Q'
	Sync      byte = 'S'
	Terminate byte = 'X'

	// From the server.
	BindComplete    byte = '2'
	CommandComplete byte = 'C'
	DataRow         byte = 'D'
	ErrorResponse   byte = 'E'
	NoticeResponse  byte = 'N'
	ParseComplete   byte = '1'
	ReadyForQuery   byte = 'Z'

	// Client messages that have no type byte: ours, chosen outside of theirs.
	StartupMessage byte = '^'
	CancelRequest  byte = '!'
)

// Codes at the start of a message without type byte, where a StartupMessage has
// the version of the protocol.
const (
	cancelCode     = 80877102
	sslCode        = 80877103
	gssEncryptCode = 80877104
)

// maxFrame is the server's own limit on a message, just under 1 GiB: a greater
// length means that we lost the frame borders.
const maxFrame = 1<<30 - 1

// rawFrame is one message as it is on the wire.
type rawFrame struct {
	kind byte
	body []byte // without type and length
	raw  []byte // with them
}

// splitter cuts one direction of a connection into frames. The zero value is
// for the server's direction; the client's one starts with untyped set.
type splitter struct {
	untyped bool // the next frame has no type byte
	rest    []byte
}

// feed takes the next bytes and returns the frames that they complete. An error
// is final: the frames before it are good, nothing behind it can be read.
func (s *splitter) feed(b []byte) ([]rawFrame, error) {
	// Frames are handed out as slices of rest: appending never touches them.
	s.rest = append(s.rest, b...)
	var frames []rawFrame
	for {
		head := 1
		if s.untyped {
			head = 0
		}
		if len(s.rest) < head+4 {
			return frames, nil
		}
		length := int(binary.BigEndian.Uint32(s.rest[head:]))
		if length < 4 || length > maxFrame || (s.untyped && length < 8) {
			return frames, fmt.Errorf("faultconn: a frame says that it is %d bytes long: this is not the PostgreSQL protocol", length)
		}
		end := head + length
		if len(s.rest) < end {
			return frames, nil
		}
		f := rawFrame{raw: s.rest[:end:end], body: s.rest[head+4 : end : end]}
		if s.untyped {
			var err error
			if f.kind, err = untypedKind(f.body); err != nil {
				return frames, err
			}
			s.untyped = false
		} else {
			f.kind = f.raw[0]
		}
		frames = append(frames, f)
		s.rest = s.rest[end:]
	}
}

func untypedKind(body []byte) (byte, error) {
	switch binary.BigEndian.Uint32(body) {
	case cancelCode:
		return CancelRequest, nil
	case sslCode, gssEncryptCode:
		return 0, errors.New("faultconn: the client asks for encryption, which hides the frames: connect with sslmode=disable")
	default:
		return StartupMessage, nil
	}
}

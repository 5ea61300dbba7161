package faultconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// session is what a client sends: all kinds of frames that the package knows.
func session(t testing.TB) []byte {
	t.Helper()
	var wire []byte
	for _, m := range []pgproto3.FrontendMessage{
		&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "u"}},
		&pgproto3.Query{String: "begin"},
		&pgproto3.Parse{Name: "s1", Query: "select $1"},
		&pgproto3.Describe{ObjectType: 'S', Name: "s1"},
		&pgproto3.Sync{},
		&pgproto3.Bind{DestinationPortal: "p1", PreparedStatement: "s1", Parameters: [][]byte{{0, 1}, nil}},
		&pgproto3.Describe{ObjectType: 'P', Name: "p1"},
		&pgproto3.Execute{Portal: "p1"},
		&pgproto3.Close{ObjectType: 'S', Name: "s1"},
		&pgproto3.Bind{PreparedStatement: "s1"},
		&pgproto3.Execute{},
		&pgproto3.Sync{},
		&pgproto3.Terminate{},
	} {
		var err error
		if wire, err = m.Encode(wire); err != nil {
			t.Fatal(err)
		}
	}
	return wire
}

func TestSplitterKnowsWhatAFrameIsAbout(t *testing.T) {
	t.Parallel()
	frames, err := split(session(t), 1, true)
	if err != nil {
		t.Fatal(err)
	}
	names := newNames()
	var kinds, about []string
	for _, f := range frames {
		kinds = append(kinds, string(f.kind))
		about = append(about, names.sql(f))
	}
	equal(t, kinds, []string{"^", "Q", "P", "D", "S", "B", "D", "E", "C", "B", "E", "S", "X"})
	const s = "select $1"
	equal(t, about, []string{"", "begin", s, s, "", s, s, s, s, "", "", "", ""})
}

func TestSplitterRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		untyped bool
		wire    []byte
	}{
		"TLS":            {true, binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, sslCode)},
		"GSS":            {true, binary.BigEndian.AppendUint32([]byte{0, 0, 0, 8}, gssEncryptCode)},
		"ShortStartup":   {true, []byte{0, 0, 0, 4}},
		"LengthTooSmall": {false, []byte{'Q', 0, 0, 0, 3}},
		"LengthTooGreat": {false, []byte{'Q', 0xff, 0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if frames, err := split(c.wire, 1, c.untyped); err == nil {
				t.Errorf("got %v and no error", frames)
			}
		})
	}
}

// FuzzFrames: however the bytes are cut, the frames are the same, and together
// with the rest they are the bytes.
func FuzzFrames(f *testing.F) {
	f.Add(session(f), byte(1), true)
	f.Add(session(f), byte(7), true)
	f.Add([]byte("C\x00\x00\x00\x0bCOMMIT\x00Z\x00\x00\x00\x05I"), byte(3), false)
	f.Add([]byte{'Q', 0, 0, 0, 3, 'S', 0, 0, 0, 4}, byte(2), false)
	f.Fuzz(func(t *testing.T, wire []byte, chunk byte, untyped bool) {
		whole, wholeErr := split(wire, len(wire), untyped)
		parts, partsErr := split(wire, int(chunk), untyped)
		if (wholeErr == nil) != (partsErr == nil) {
			t.Fatalf("at once: error %v; in chunks of %d: error %v", wholeErr, chunk, partsErr)
		}
		same := slices.EqualFunc(whole, parts, func(a, b rawFrame) bool {
			return a.kind == b.kind && bytes.Equal(a.raw, b.raw) && bytes.Equal(a.body, b.body)
		})
		if !same {
			t.Fatalf("at once: %q; in chunks of %d: %q", whole, chunk, parts)
		}
		var joined []byte
		names := newNames()
		for _, frame := range whole {
			joined = append(joined, frame.raw...)
			names.sql(frame) // must not panic on any body,
			tag(frame)       // nor this
		}
		if !bytes.HasPrefix(wire, joined) {
			t.Fatalf("the frames are not the bytes: %q from %q", joined, wire)
		}
	})
}

// split feeds wire in chunks of n bytes.
func split(wire []byte, n int, untyped bool) ([]rawFrame, error) {
	s := splitter{untyped: untyped}
	var all []rawFrame
	for chunk := range slices.Chunk(wire, max(n, 1)) {
		frames, err := s.feed(chunk)
		all = append(all, frames...)
		if err != nil {
			return all, err
		}
	}
	var sum int
	for _, f := range all {
		sum += len(f.raw)
	}
	if sum+len(s.rest) != len(wire) {
		return all, errors.New("bytes were lost")
	}
	return all, nil
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

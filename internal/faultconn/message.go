package faultconn

import "bytes"

// Side is the side of a connection that sends a message.
type Side byte

// The sides. Messages of the client are what a Point names unless it says otherwise.
const (
	Client Side = iota
	Server
)

func (s Side) String() string {
	if s == Server {
		return "server"
	}
	return "client"
}

// Message describes one frame. It does not keep the frame's parameters or rows.
type Message struct {
	Conn int  // number of the connection, from 1 in the order of dialing
	Side Side // who sends it
	Type byte // its type byte, or StartupMessage, CancelRequest

	// SQL is the text that a client's Query, Parse, Bind, Describe, Execute or
	// Close is about, looked up by statement and portal name where the frame
	// has only these. Empty for all others.
	SQL string

	// Tag is the command tag of a CommandComplete, the SQLSTATE of an
	// ErrorResponse, the transaction status (I, T, E) of a ReadyForQuery.
	Tag string
}

// executes says whether the frame makes the server run its SQL.
func (m Message) executes() bool {
	return m.Side == Client && (m.Type == Query || m.Type == Execute)
}

// names remembers which SQL the statements and portals of a connection stand
// for. A failed Parse leaves a name that the server does not have: harmless,
// since nobody can execute it.
type names struct {
	statements map[string]string
	portals    map[string]string
}

func newNames() *names {
	return &names{statements: map[string]string{}, portals: map[string]string{}}
}

// sql returns what a client's frame is about and learns from it.
func (n *names) sql(f rawFrame) string {
	first, tail := cstring(f.body)
	switch f.kind {
	case Query:
		return first
	case Parse:
		text, _ := cstring(tail)
		n.statements[first] = text
		return text
	case Bind:
		statement, _ := cstring(tail)
		n.portals[first] = n.statements[statement]
		return n.portals[first]
	case Execute:
		return n.portals[first]
	case Describe, Close:
		return n.named(f)
	}
	return ""
}

// named looks at a Describe or Close: 'S' or 'P', then a name.
func (n *names) named(f rawFrame) string {
	if len(f.body) == 0 {
		return ""
	}
	from := n.portals
	if f.body[0] == 'S' {
		from = n.statements
	}
	name, _ := cstring(f.body[1:])
	text := from[name]
	if f.kind == Close {
		delete(from, name)
	}
	return text
}

// tag returns Message.Tag of a server's frame.
func tag(f rawFrame) string {
	switch f.kind {
	case CommandComplete:
		text, _ := cstring(f.body)
		return text
	case ReadyForQuery:
		return string(f.body)
	case ErrorResponse:
		// Fields: a byte that names the field, then its value.
		for b := f.body; len(b) > 1; {
			var value string
			code := b[0]
			value, b = cstring(b[1:])
			if code == 'C' {
				return value
			}
		}
	}
	return ""
}

// cstring reads a zero-terminated string and returns what follows it.
func cstring(b []byte) (string, []byte) {
	text, tail, _ := bytes.Cut(b, []byte{0})
	return string(text), tail
}

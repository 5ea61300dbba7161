package faultconn

import (
	"fmt"
	"strings"
)

// When says where a fault strikes relative to its message.
type When byte

// The places of a fault.
const (
	Before When = iota // nothing of it is delivered
	Mid                // half of its bytes are
	After              // all of it is, and nothing behind it
)

func (w When) String() string {
	return [...]string{"before", "mid", "after"}[w]
}

// of returns how many of a frame's n bytes are delivered.
func (w When) of(n int) int {
	return [...]int{0, n / 2, n}[w]
}

// Point names a message. All fields that are set must fit; the zero Point is
// the first frame that the client sends from now on.
//
// With Side Client, no Type and some SQL, it names a batch: the frames up to
// Sync, or one Query, that make the server execute a statement with this text,
// however pgx sends it. Before is then before the batch's first frame, After
// behind its last one, and Mid within the frame that would execute the
// statement, so that all statements in front of it may have run and it has not.
type Point struct {
	Side Side
	Type byte   // a constant of this package; 0: any
	SQL  string // part of Message.SQL, upper and lower case alike; Client only
	Tag  string // start of Message.Tag, e.g. "COMMIT", "INSERT", "23505"; Server only
	Nth  int    // which of the messages that fit, from 1; 0: the first

	// OneConn counts Nth on the connection of the first message that fits
	// instead of on all connections together.
	OneConn bool

	// Match is asked last, if set. It must not use the Faults.
	Match func(Message) bool

	When When

	// FailWrite makes the client's own Write report a Cut, with the number of
	// bytes that were delivered, where it would succeed and the next Read fail.
	// pgconn.SafeToRetry holds if that number is 0.
	FailWrite bool
}

// String is for names of subtests and for fault logs.
func (p Point) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s", p.When, p.Side)
	if p.Type != 0 {
		fmt.Fprintf(&s, " %c", p.Type)
	}
	for _, text := range []string{p.SQL, p.Tag} {
		if text != "" {
			fmt.Fprintf(&s, " %q", text)
		}
	}
	return fmt.Sprintf("%s #%d", s.String(), p.nth())
}

// Points returns, for a recorded list, the points before and after each message,
// for a campaign that cuts everywhere. Nth is counted per side, on all
// connections, from the moment the fault is armed: repeat the recorded work
// from the same start.
func Points(recorded []Message) []Point {
	var points []Point
	var n [2]int
	for _, m := range recorded {
		n[m.Side]++
		for _, w := range []When{Before, After} {
			points = append(points, Point{Side: m.Side, Nth: n[m.Side], When: w})
		}
	}
	return points
}

func (p Point) nth() int { return max(p.Nth, 1) }

// check panics on a point that can never be reached: an error in the test.
func (p Point) check() {
	switch {
	case p.Side == Server && p.SQL != "":
		panic("faultconn: Point.SQL is for messages of the client; name the server's answer by Type and Tag")
	case p.Side == Client && p.Tag != "":
		panic("faultconn: Point.Tag is for messages of the server; set Side: Server")
	case p.Side > Server || p.When > After || p.Nth < 0:
		panic(fmt.Sprintf("faultconn: no such point: Side %d, When %d, Nth %d", p.Side, p.When, p.Nth))
	}
}

// fits says whether a fault at p has to do with this frame.
func (p Point) fits(f *frame) bool {
	if p.Side != f.Side {
		return false
	}
	if p.Side == Client && p.Type == 0 && p.SQL != "" {
		return p.fitsBatch(f)
	}
	return (p.Type == 0 || p.Type == f.Type) && p.fitsText(f.Message)
}

// fitsBatch says yes to exactly one frame of a batch that executes p.SQL: the
// one at which p.When is.
func (p Point) fitsBatch(f *frame) bool {
	for i := range f.batch {
		if m := f.batch[i].Message; m.executes() && p.fitsText(m) {
			return f == [...]*frame{f.batch[0], f.batch[i], f.batch[len(f.batch)-1]}[p.When]
		}
	}
	return false
}

func (p Point) fitsText(m Message) bool {
	return strings.Contains(strings.ToLower(m.SQL), strings.ToLower(p.SQL)) &&
		strings.HasPrefix(m.Tag, p.Tag) &&
		(p.Match == nil || p.Match(m))
}

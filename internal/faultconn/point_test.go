package faultconn

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

func TestPointString(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]Point{
		`before client #1`:               {},
		`mid client Q "commit" #2`:       {Type: Query, SQL: "commit", Nth: 2, When: Mid},
		`after server C "INSERT 0 1" #1`: {Side: Server, Type: CommandComplete, Tag: "INSERT 0 1", When: After},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestPointThatCannotBeReachedPanics(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]Point{
		"SQLOfTheServer": {Side: Server, SQL: "commit"},
		"TagOfTheClient": {Tag: "COMMIT"},
		"NegativeNth":    {Nth: -1},
		"UnknownWhen":    {When: After + 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Errorf("%+v was armed", p)
				}
			}()
			New().Cut(p)
		})
	}
}

func TestMatchChoosesAmongTheMessagesThatFit(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	var asked []string
	hold := b.faults.Hold(Point{Type: Execute, Match: func(m Message) bool {
		asked = append(asked, m.SQL)
		return m.SQL == insert
	}})
	done := start(func() error { return works["Batch"](b.ctx, conn, 1) })
	await(t, "the hold", hold.Reached())
	hold.Release()
	if err := await(t, "the batch", done); err != nil {
		t.Fatal(err)
	}
	equal(t, asked, []string{"begin", insert})
}

// A Read that waits for a test obeys a deadline that is set, moved or taken
// back meanwhile, as pgx does when a context ends.
func TestDeadlineReachesAWaitingRead(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeExec)
	conn := b.connect(t).Conn().PgConn().Conn()
	hole := b.faults.BlackHole(Point{Type: Query})
	ping, err := (&pgproto3.Query{String: "select 1"}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	read := func() <-chan error {
		return start(func() error {
			_, err := conn.Read(make([]byte, 1))
			return err
		})
	}
	if _, err := conn.Write(ping); err != nil {
		t.Fatal(err)
	}
	await(t, "the black hole", hole.Reached())

	conn.SetDeadline(time.Now().Add(patience))
	first := read()
	conn.SetDeadline(time.Now().Add(-time.Second))
	if err := await(t, "the read", first); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: got %v, want os.ErrDeadlineExceeded", err)
	}
	if _, err := conn.Write(ping); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: got %v, want os.ErrDeadlineExceeded", err)
	}

	conn.SetDeadline(time.Time{})
	second := read()
	hole.Heal()
	if err := await(t, "the read", second); err != nil {
		t.Errorf("read after healing: %v", err)
	}
}

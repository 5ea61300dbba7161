package pgidem

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// journey is an operation of several steps that keeps a book: every run of a step's body leaves a row there, at once and for good,
// in whichever process it runs and whatever becomes of it.
type journey struct {
	key  Key
	who  string
	book *pgxpool.Pool      // beside the client's, so that the rows are committed at once
	at   func(place string) // "charge begins", "charge ends" and so on; nil: goes on
}

const createBook = "CREATE TABLE IF NOT EXISTS book (n bigint GENERATED ALWAYS AS IDENTITY, key text, step text, downstream text, who text)"

// journey is the test's own process going through the bundle's key.
func (b *bundle) journey(who string) *journey {
	b.Helper()
	book := b.db.Pool(b.T, func(p *pgxpool.Config) { // it outlives the server's restarts
		p.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	})
	b.must(book.Exec(b.Context(), createBook))
	return &journey{key: b.key, who: who, book: book}
}

func (t *journey) reach(place string) {
	if t.at != nil {
		t.at(place)
	}
}

// body is what every step does: it writes itself into the book. The context may have ended, and the body runs all the same.
func (t *journey) body(ctx context.Context, step, downstream string) error {
	t.reach(step + " begins")
	_, err := t.book.Exec(context.WithoutCancel(ctx), "INSERT INTO book (key, step, downstream, who) VALUES ($1, $2, $3, $4)",
		t.key.ID, step, downstream, t.who)
	t.reach(step + " ends")
	return err
}

// write is the body of a step in a transaction.
func (t *journey) write(ctx context.Context, tx Tx, step string) error {
	_, err := tx.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", t.key.ID+"/"+step)
	return errors.Join(err, t.body(ctx, step, ""))
}

func (t *journey) create(ctx context.Context, op *Op, opts ...*StepOpts[string]) (string, error) {
	t.reach("create is next")
	return StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
		return "created", t.write(ctx, tx, "create")
	}, opts...)
}

// ride is tx, call, tx.
func (t *journey) ride(ctx context.Context, op *Op) (string, error) {
	created, err := t.create(ctx, op)
	if err != nil {
		return "", err
	}
	t.reach("charge is next")
	charge, err := Step(ctx, op, "charge", func(ctx context.Context, s StepContext) (string, error) {
		return "charged", t.body(ctx, "charge", s.Key())
	})
	if err != nil {
		return "", err
	}
	t.reach("receipt is next")
	return FinishTx(ctx, op, "receipt", func(ctx context.Context, tx Tx) (string, error) {
		return created + ", " + charge + ", receipt", t.write(ctx, tx, "receipt")
	})
}

// refused is why every cancelled journey ends.
var refused = &Failure{Code: "refused", Message: "the driver does not come"}

// cancelled is tx, a call that can be asked about, a call that must not be repeated, and a definite failure; then all is taken back.
func (t *journey) cancelled(ctx context.Context, op *Op) (string, error) {
	takeBack := func(step string) func(context.Context, StepContext, string) error {
		return func(ctx context.Context, s StepContext, _ string) error { return t.body(ctx, "undo "+step, s.Key()) }
	}
	_, err := t.create(ctx, op, &StepOpts[string]{UndoTx: func(ctx context.Context, tx Tx, _ string) error {
		return t.write(ctx, tx, "undo create")
	}})
	if err != nil {
		return "", err
	}
	_, err = Step(ctx, op, "reserve", func(ctx context.Context, s StepContext) (string, error) {
		return "reserved", t.body(ctx, "reserve", s.Key())
	}, &StepOpts[string]{
		Timeout: 3 * time.Second, // whoever comes behind a crash waits so long before it asks
		Undo:    takeBack("reserve"),
		Reconcile: func(ctx context.Context, s StepContext) (Reconciled[string], error) {
			var made bool
			err := t.book.QueryRow(ctx, "SELECT count(*) > 0 FROM book WHERE key = $1 AND step = 'reserve' AND downstream = $2",
				t.key.ID, s.Key()).Scan(&made)
			answer := Reconciled[string]{Outcome: ReconcileAbsent}
			if made {
				answer = Reconciled[string]{Outcome: ReconcileDone, Value: "reserved"}
			}
			return answer, errors.Join(err, t.body(ctx, "ask", s.Key()))
		},
	})
	if err != nil {
		return "", err
	}
	_, err = Step(ctx, op, "call driver", func(ctx context.Context, s StepContext) (string, error) {
		return "called", t.body(ctx, "call driver", s.Key())
	}, &StepOpts[string]{AtMostOnce: true, Undo: takeBack("call driver")})
	if err != nil {
		return "", err
	}
	_, err = Step(ctx, op, "confirm", func(ctx context.Context, s StepContext) (string, error) {
		return "", errors.Join(t.body(ctx, "confirm", s.Key()), Permanent(refused))
	})
	return "", err
}

// itineraries are the operations by name, for other processes.
var itineraries = map[string]struct {
	run  func(t *journey, ctx context.Context, op *Op) (string, error)
	opts DoOpts
}{
	"ride":       {run: (*journey).ride},
	"ride at tx": {run: (*journey).ride, opts: DoOpts{StartsWithTx: true}},
	"cancelled":  {run: (*journey).cancelled},
}

// do runs one of the itineraries.
func (t *journey) do(ctx context.Context, c *Client, itinerary string) (Result[string], error) {
	way := itineraries[itinerary]
	return Do(ctx, c, t.key, func(ctx context.Context, op *Op) (string, error) { return way.run(t, ctx, op) }, &way.opts)
}

// wrote counts who ran which body; "" counts everybody's.
func (t *journey) wrote(b *bundle, who string) map[string]int {
	b.Helper()
	rows, err := t.book.Query(b.Context(), "SELECT step, count(*)::int FROM book WHERE key = $1 AND $2 IN ('', who) GROUP BY step", t.key.ID, who)
	b.must(rows, err)
	counts := map[string]int{}
	var step string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&step, &n}, func() error { counts[step] = n; return nil })
	b.must(nil, err)
	return counts
}

// want checks how often which body ran, that no committed transaction is missing or doubled, and that each step had one downstream key.
func (t *journey) want(b *bundle, bodies map[string]int, committed ...string) {
	b.Helper()
	if got := t.wrote(b, ""); !maps.Equal(got, bodies) {
		b.Errorf("the bodies ran %v times, want %v", got, bodies)
	}
	rows, err := t.book.Query(b.Context(), "SELECT key FROM effects WHERE key LIKE $1 || '/%' ORDER BY n", t.key.ID)
	b.must(rows, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	b.must(got, err)
	for n := range committed {
		committed[n] = t.key.ID + "/" + committed[n]
	}
	if !slices.Equal(got, committed) {
		b.Errorf("committed is %v, want %v", got, committed)
	}
	if n := one[int](b, t.book, `SELECT count(*) FROM (SELECT FROM book WHERE key = $1 AND downstream <> ''
		GROUP BY step HAVING count(DISTINCT downstream) > 1) AS changed`, t.key.ID); n != 0 {
		b.Errorf("%d steps had more than one downstream key", n)
	}
}

// wantAllGone closes the clients and asks the server what is left of them: no lock, no open transaction, no liveness connection.
func (b *bundle) wantAllGone(clients ...*Client) {
	b.Helper()
	for _, client := range clients {
		b.must(nil, client.Close(b.Context()))
	}
	b.until("nothing is left", `SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory'
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
		AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
			AND backend_type = 'client backend' AND (xact_start IS NOT NULL OR application_name = 'pgidem liveness'))`)
}

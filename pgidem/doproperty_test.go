package pgidem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

// The model: two players, each a client and so a process of its own, play operations of tx, call, tx on two keys. A call of Do stands
// still in front of each step, until the test says how it goes on; so the test knows of everything that happens, in its order.

// player is a client whose liveness connection can be ended and kept away, and is replaced all the time.
type player struct {
	name   string
	client *Client
	lease  *crossing
	dead   bool
	drives map[*played]*drive // by key, those that have not returned
}

// played is a key as the model knows it.
type played struct {
	key      Key
	state    string   // "" where there is no row
	expired  bool     // with a finished state
	recorded []string // results of the steps that are recorded, in order
	value    string   // or the failure's message
	attempt  int
	owner    *drive
	effects  []string    // of all its lives
	bodies   map[int]int // how often each step's function ran, in all its lives
	ran      map[int]int // the same as it was
	mu       sync.Mutex  // guards ran
}

// drive is one call of Do.
type drive struct {
	by      *player
	of      *played
	zombie  bool // somebody else has the operation
	told    bool // and its context has ended because of that
	resumed bool // its claim found a row
	lost    int  // how often it was taken over
	gate    int  // the step in front of which it stands
	gates   chan arrival
	orders  chan order
	done    chan answer[string]
}

// arrival is a drive in front of a step, with the results of those before it.
type arrival struct {
	step int
	got  []string
}

// order is what the step is to do.
type order struct{ what, value string }

func (a *answer[T]) String() string {
	if a == nil {
		return "no answer"
	}
	return fmt.Sprintf("%+v, %v", a.Result, a.err)
}

var (
	errOrdered = errors.New("as ordered")
	stepNames  = []string{"create", "charge", "receipt"}
)

// run is the operation's function.
func (d *drive) run(ctx context.Context, op *Op) (string, error) {
	var got []string
	for n, name := range stepNames {
		d.gates <- arrival{n, slices.Clone(got)}
		o := <-d.orders
		switch o.what {
		case "fail":
			return "", errOrdered
		case "deny":
			return "", Permanent(errors.New(o.value))
		}
		body := func() (string, error) {
			d.of.mu.Lock()
			defer d.of.mu.Unlock()
			d.of.ran[n]++
			switch o.what {
			case "fail inside":
				return o.value, errOrdered
			case "doubt":
				return "", Unknown(errOrdered)
			}
			return o.value, nil
		}
		inTx := func(ctx context.Context, tx Tx) (string, error) {
			if _, err := tx.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", d.of.key.ID+" "+o.value); err != nil {
				return "", err
			}
			return body()
		}
		var value string
		var err error
		switch n {
		case 0:
			value, err = StepTx(ctx, op, name, inTx)
		case 1:
			value, err = Step(ctx, op, name, func(context.Context, StepContext) (string, error) { return body() })
		default:
			return FinishTx(ctx, op, name, func(ctx context.Context, tx Tx) (string, error) {
				value, err := inTx(ctx, tx)
				return strings.Join(append(got, value), " "), err
			})
		}
		if err != nil {
			return "", err
		}
		got = append(got, value)
	}
	return "", errors.New("FinishTx has not returned")
}

// game is one sequence.
type game struct {
	*rapid.T
	b       *bundle
	players []*player
	keys    []*played
	values  int
	log     []string
}

const patienceOfGame = time.Minute

func (g *game) expect(ok bool, format string, args ...any) {
	g.Helper()
	if !ok {
		g.Fatalf("%s\nafter: %s", fmt.Sprintf(format, args...), strings.Join(g.log, "; "))
	}
}

func (g *game) said(format string, args ...any) { g.log = append(g.log, fmt.Sprintf(format, args...)) }

// end lets everything that is under way come to its end, and each key to its result.
func (g *game) end() {
	for _, p := range g.players {
		if p.dead {
			g.rise(p)
		}
	}
	for _, k := range g.keys {
		for range 20 {
			switch d := g.driving(k); {
			case d != nil:
				g.order(d, "go")
			case k.state == stateParked:
				g.decide(k, "release")
			default:
				g.claim(g.players[0], k)
			}
			if g.driving(k) == nil && !k.expired && (k.state == stateSucceeded || k.state == stateFailed) {
				break
			}
		}
		g.expect(g.driving(k) == nil, "calls of %s go on for ever", k.key.ID)
		for _, p := range g.players {
			g.claim(p, k)
		}
		g.check(k)
	}
}

func (g *game) driving(k *played) *drive {
	for _, p := range g.players {
		if d := p.drives[k]; d != nil {
			return d
		}
	}
	return nil
}

// check compares the database, and what has run, with the model.
func (g *game) check(k *played) {
	texts := func(sql string, args ...any) []string {
		rows, err := g.b.pool.Query(g.b.Context(), sql, args...)
		g.expect(err == nil, "%v", err)
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		g.expect(err == nil, "%v", err)
		return texts
	}
	effects := texts("SELECT substr(key, length($1) + 2) FROM effects WHERE key LIKE $1 || ' %' ORDER BY n", k.key.ID)
	g.expect(slices.Equal(effects, k.effects), "effects %q, want %q", effects, k.effects)
	names := texts("SELECT name FROM idempotency_steps WHERE scope = $1 AND id = $2 AND recorded_at IS NOT NULL ORDER BY ordinal", k.key.Scope, k.key.ID)
	g.expect(slices.Equal(names, stepNames[:len(k.recorded)]), "recorded %q, want %d of them", names, len(k.recorded))
	for n := range stepNames {
		g.expect(k.ran[n] == k.bodies[n], "step %d ran %d times, want %d", n, k.ran[n], k.bodies[n])
	}
	illegal := one[int](g.b, g.b.pool, "SELECT count(*) FROM idempotency_illegal_rows")
	g.expect(illegal == 0, "%d rows are illegal", illegal)
}

// abandon lets every call return, whatever has gone wrong.
func (g *game) abandon() {
	for _, p := range g.players {
		p.lease.open()
		p.dead = false
		for k, d := range p.drives {
			for open := true; open; {
				select {
				case <-d.gates:
				case d.orders <- order{what: "fail"}:
				case <-d.done:
					open = false
				}
			}
			delete(p.drives, k)
		}
	}
}

func TestPropertyOfSteps(t *testing.T) {
	b := setup(t)
	b.until("the server is not young", "SELECT clock_timestamp() - pg_postmaster_start_time() > interval '3 seconds'")
	var players []*player
	for _, name := range []string{"Ann", "Bob"} {
		lease := newCrossing(b)
		client, _, _ := b.newClient(withConfig(func(c *Config) {
			c.LivenessDSN = lease.dsn
			c.PingInterval, c.RotateAfter = 20*time.Millisecond, 100*time.Millisecond // so that rows are tagged anew all the time
		}))
		first := func(context.Context, *Op) (string, error) { return "", nil } // with which the liveness connection comes
		b.must(Do(b.Context(), client, Key{b.key.Scope, name}, first))
		players = append(players, &player{name: name, client: client, lease: lease, drives: map[*played]*drive{}})
	}
	rapid.Check(t, func(t *rapid.T) {
		g := &game{T: t, b: b, players: players}
		defer g.abandon()
		for range 2 {
			g.keys = append(g.keys, &played{key: Key{b.key.Scope, NewID()}, bodies: map[int]int{}, ran: map[int]int{}})
		}
		for range rapid.IntRange(1, 16).Draw(t, "moves") {
			moves := g.moves()
			names := make([]string, 0, len(moves))
			for name := range moves {
				names = append(names, name)
			}
			slices.Sort(names)
			moves[rapid.SampledFrom(names).Draw(t, "move")]()
		}
		g.end()
	})
}

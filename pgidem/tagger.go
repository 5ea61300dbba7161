package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// tagger gives the rows of running operations to the client's new instance: until it has, they look dead to everybody. It is a
// goroutine of its own, because nothing else may delay it.
type tagger struct {
	client *Client
	woken  chan struct{}
}

func newTagger(c *Client) *tagger { return &tagger{client: c, woken: make(chan struct{}, 1)} }

// wake makes the tagger look at once.
func (t *tagger) wake() {
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

func (t *tagger) work(ctx context.Context) {
	for {
		select {
		case <-t.woken:
			t.tag(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// tag goes on until no row has an old number any more. It has a connection of its own for that: the pool's may all be in the hands of
// callers that wait. Where the server has none to spare, the pool's must do.
func (t *tagger) tag(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for tries := 1; ctx.Err() == nil; tries++ {
		in := t.client.liveness.get()
		if in == nil {
			return // there will be a new one, and another call of wake
		}
		untagged := t.client.registry.untagged(in.generation)
		if len(untagged) == 0 {
			return
		}
		if conn == nil || conn.IsClosed() {
			conn = t.connect(ctx)
		}
		var db dbsqlc.DBTX = t.client.pool
		if conn != nil {
			db = conn
		}
		for _, r := range untagged {
			t.tagOne(ctx, db, r, in)
		}
		t.rest(ctx, tries)
	}
}

// rest pauses between two looks, 250 ms at most, and for as long as nobody has something new.
func (t *tagger) rest(ctx context.Context, tries int) {
	timer := time.NewTimer(min(5*time.Millisecond<<min(tries, 10), 250*time.Millisecond))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.woken:
	case <-ctx.Done():
	}
}

// connect returns nil where it fails.
func (t *tagger) connect(ctx context.Context) *pgx.Conn {
	ctx, cancel := context.WithTimeout(ctx, pingPatience)
	defer cancel()
	conn, err := t.client.connect(ctx)
	if err != nil {
		return nil
	}
	if after := t.client.pool.Config().AfterConnect; after != nil && after(ctx, conn) != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil
	}
	return conn
}

// tagOne tags one row, in a transaction of its own and without waiting: one that waited for the row of a long step would keep all others
// looking dead. That step's own COMMIT tags its row. An operation that somebody else has taken over meanwhile is told so.
func (t *tagger) tagOne(ctx context.Context, db dbsqlc.DBTX, r *running, in *instance) {
	ctx, cancel := context.WithTimeout(ctx, pingPatience)
	defer cancel()
	high, low := in.halves()
	registry := t.client.registry
	row := dbsqlc.OwnerRetagParams{
		OwnerHigh: high, OwnerLow: low, Owner: in.id, Scope: r.key.Scope, ID: r.key.ID, Claim: registry.current(r),
	}
	_, err := dbsqlc.New().OwnerRetag(ctx, db, row)
	if sqlState(err) != "" && !isOwnerless(err) { // the pool's connections may be prepared in a way that its own is not
		_, err = dbsqlc.New().OwnerRetag(ctx, t.client.pool, row)
	}
	if err == nil {
		registry.confirm(r, in.generation)
		return
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return
	}
	of, err := dbsqlc.New().OwnerOf(ctx, t.client.pool, dbsqlc.OwnerOfParams{Scope: r.key.Scope, ID: r.key.ID})
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && !registry.wrote(r, formatUUID(of.Claim.Bytes)):
		registry.lose(r, &Error{Key: r.key, Kind: ErrTakenOver, Reason: "the liveness connection was lost, and somebody else went on with it"})
		registry.confirm(r, in.generation) // there is nothing to tag any more
	case err == nil && of.State != stateRunning && of.State != stateUndoing:
		registry.confirm(r, in.generation) // it is settled, and about to leave the registry
	}
}

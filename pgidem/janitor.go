package pgidem

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// janitor does what must be done for operations without a caller that waits for it: it tags rows with a new instance, repeats
// writes that did not come through, and releases rows that are this client's and that nobody works on.
type janitor struct {
	client *Client
	woken  chan struct{}

	mu     sync.Mutex
	chores []chore
}

// chore is a write that must not be lost although its caller has gone. It is tried until it returns true.
type chore func(ctx context.Context) (done bool)

func newJanitor(c *Client) *janitor { return &janitor{client: c, woken: make(chan struct{}, 1)} }

// wake makes the janitor look at once.
func (j *janitor) wake() {
	select {
	case j.woken <- struct{}{}:
	default:
	}
}

// work goes on until the client is closed and nothing runs on it. Then the instance may go: whatever is left is free for others.
func (j *janitor) work(ctx context.Context) {
	tick := time.NewTicker(j.client.config.PingInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-j.woken:
		case <-j.client.idle:
			j.finish(ctx)
			return
		}
		j.pass(ctx)
	}
}

// finish is the last that the janitor does: it gives what is left to be saved one more FinishBound.
func (j *janitor) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, j.client.config.FinishBound)
	defer cancel()
	for tries := 1; ; tries++ {
		j.pass(ctx)
		if j.empty() || pause(ctx, tries) != nil {
			return
		}
	}
}

// pass does each chore once; what fails is tried again in the next pass.
func (j *janitor) pass(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, j.client.config.FinishBound)
	defer cancel()
	in := j.client.liveness.get()
	if in != nil {
		j.tag(ctx, in)
	}
	j.do(ctx)
	if in != nil {
		j.sweep(ctx, in)
	}
}

// tag gives the rows of all running operations to the new instance, one by one and each in a transaction of its own: one that waited
// for the row of a long step would keep all others looking dead.
func (j *janitor) tag(ctx context.Context, in *instance) {
	untagged := j.client.registry.untagged(in.generation)
	if len(untagged) == 0 {
		return
	}
	conn, err := j.client.connect(ctx) // of its own: the pool's may all be in hands that wait
	missed := err != nil
	if err != nil {
		untagged = nil
	} else {
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	}
	for _, r := range untagged {
		switch tagged, err := j.client.retag(ctx, conn, r, in); {
		case err != nil || !tagged:
			missed = true
		default:
			j.client.registry.confirm(r, in.generation)
		}
	}
	if missed && ctx.Err() == nil {
		time.AfterFunc(25*time.Millisecond, j.wake)
	}
}

// retag tags one row. An operation that somebody else has taken over meanwhile is told so.
func (c *Client) retag(ctx context.Context, conn *pgx.Conn, r *running, in *instance) (tagged bool, err error) {
	high, low := in.halves()
	token := c.registry.current(r)
	_, err = dbsqlc.New().OwnerRetag(ctx, conn, dbsqlc.OwnerRetagParams{
		OwnerHigh: high, OwnerLow: low, Owner: in.id, Scope: r.key.Scope, ID: r.key.ID, Claim: token,
	})
	if err == nil {
		return true, nil
	}
	if err != pgx.ErrNoRows { //nolint:errorlint // Straight from pgx.
		return false, err
	}
	of, err := dbsqlc.New().OwnerOf(ctx, conn, dbsqlc.OwnerOfParams{Scope: r.key.Scope, ID: r.key.ID})
	switch {
	case err == pgx.ErrNoRows, //nolint:errorlint // Straight from pgx.
		err == nil && !c.registry.wrote(r, formatUUID(of.Claim.Bytes)):
		c.registry.lose(r, &Error{Key: r.key, Kind: ErrTakenOver, Reason: "the liveness connection was lost, and somebody else went on with it"})
		return true, nil // nothing to tag any more
	case err != nil:
		return false, err
	case of.State != stateRunning && of.State != stateUndoing:
		return true, nil // it is settled, and about to leave the registry
	default:
		return false, nil // a step's transaction holds the row; that transaction is one more proof of life
	}
}

// sweep releases rows that carry this instance's number while nobody here works on them: those of a release that did not come
// through, or of a claim whose answer was lost. The rows are read first and the registry after them, because an operation is
// registered before its row is there, and leaves when its row is settled.
func (j *janitor) sweep(ctx context.Context, in *instance) {
	rows, err := dbsqlc.New().OwnerRows(ctx, j.client.pool, in.id)
	if err != nil {
		return
	}
	for _, row := range rows {
		token := formatUUID(row.Claim.Bytes)
		if j.client.registry.has(token) {
			continue
		}
		// An error means that it is not ours any more, or that the next pass meets it again.
		_, _ = dbsqlc.New().OperationRelease(ctx, j.client.pool, dbsqlc.OperationReleaseParams{Scope: row.Scope, ID: row.ID, Claim: token})
	}
}

func (j *janitor) add(one chore) {
	j.mu.Lock()
	j.chores = append(j.chores, one)
	j.mu.Unlock()
	j.wake()
}

func (j *janitor) empty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.chores) == 0
}

func (j *janitor) do(ctx context.Context) {
	j.mu.Lock()
	chores := j.chores
	j.chores = nil
	j.mu.Unlock()
	var left []chore
	for _, one := range chores {
		if ctx.Err() != nil || !one(ctx) {
			left = append(left, one)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.chores = append(left, j.chores...)
}

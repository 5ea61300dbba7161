package pgidem

import (
	"context"
	"sync"
	"time"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// janitor does what must be done for operations without a caller that waits for it: it repeats writes that did not come through, and
// releases rows that are this client's and that nobody works on.
type janitor struct {
	client *Client
	woken  chan struct{}

	mu     sync.Mutex
	chores []chore
}

// chore is a write that must not be lost although its caller has gone. It is tried until it returns true.
type chore func(ctx context.Context) (done bool)

func newJanitor(c *Client) *janitor { return &janitor{client: c, woken: make(chan struct{}, 1)} }

// work goes on until the client is closed and nothing runs on it. Then the instance may go: whatever is left is free for others.
func (j *janitor) work(ctx context.Context) {
	tick := time.NewTicker(j.client.config.PingInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			j.do(ctx)
			j.sweep(ctx)
		case <-j.woken:
			j.do(ctx)
		case <-j.client.idle:
			j.finish(ctx)
			return
		}
	}
}

// finish is the last that the janitor does: it gives what is left to be saved one more FinishBound.
func (j *janitor) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, j.client.config.FinishBound)
	defer cancel()
	for tries := 1; ; tries++ {
		j.do(ctx)
		if j.empty() || pause(ctx, tries) != nil {
			break
		}
	}
	j.sweep(ctx)
}

// add has a chore done as soon as possible, and before Close has closed the liveness connection.
func (j *janitor) add(one chore) {
	j.mu.Lock()
	j.chores = append(j.chores, one)
	j.mu.Unlock()
	select {
	case j.woken <- struct{}{}:
	default:
	}
}

func (j *janitor) empty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.chores) == 0
}

// do tries each chore once. Those that fail go behind those that came meanwhile, so that none keeps the others waiting for ever.
func (j *janitor) do(ctx context.Context) {
	j.mu.Lock()
	chores := j.chores
	j.chores = nil
	j.mu.Unlock()
	var untried, failed []chore
	for n, one := range chores {
		if ctx.Err() != nil {
			untried = chores[n:]
			break
		}
		if !one(ctx) {
			failed = append(failed, one)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.chores = append(append(untried, j.chores...), failed...)
}

// sweep releases rows that carry this instance's number while nobody here works on them: those of a release that did not come
// through, or of a claim whose answer was lost. The rows are read first and the registry after them, because an operation is
// registered before its row is there, and leaves when its row is settled.
func (j *janitor) sweep(ctx context.Context) {
	in := j.client.liveness.get()
	if in == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, j.client.config.FinishBound)
	defer cancel()
	rows, err := dbsqlc.New().OwnerRows(ctx, j.client.pool, in.id)
	if err != nil {
		return
	}
	for _, row := range rows {
		if token := formatUUID(row.Claim.Bytes); !j.client.registry.has(token) {
			// Where it fails, or the row is held by somebody, the next one meets it again.
			_ = dbsqlc.New().OwnerRelease(ctx, j.client.pool, dbsqlc.OwnerReleaseParams{Scope: row.Scope, ID: row.ID, Claim: token})
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

func bareSelect() variant {
	return variant{
		name:     "bare_select",
		question: "what any answer from the database costs: one SELECT by primary key",
		setup: func(l *lab) op {
			turn := make(turns, l.callers)
			return func(ctx context.Context, worker int) error {
				c := charge{ID: l.settledID(turn.next(worker), worker)}
				return l.pool.QueryRow(ctx, selectCharge, c.ID).Scan(&c.Account, &c.Amount)
			}
		},
	}
}

func replay() variant {
	return variant{
		name:     "replay",
		question: "DoTx with a key that is finished: the saved result comes back",
		baseline: "bare_select",
		setup:    func(l *lab) op { return l.replayOp(l.client, nil) },
	}
}

func replayKnown() variant {
	return variant{
		name:     "replay_known",
		question: "the same from a caller that knows of the earlier try (TxOpts.Retry)",
		baseline: "bare_select",
		setup:    func(l *lab) op { return l.replayOp(l.client, &pgidem.TxOpts{Retry: true}) },
	}
}

func replayCached() variant {
	return variant{
		name:     "replay_cached",
		question: "the same from the memory of this process (Config.Cache)",
		baseline: "bare_select",
		setup: func(l *lab) op {
			client, err := pgidem.New(l.pool, pgidem.Config{Cache: pgidem.NewMemoryCache(64 << 20)})
			if err != nil {
				return func(context.Context, int) error { return err }
			}
			cached := *l
			cached.settled = l.settled[:min(len(l.settled), cachedKeys*l.callers)]
			return cached.replayOp(client, nil)
		},
	}
}

// cachedKeys is how many keys a worker goes round that are answered from memory: few enough for the warm-up to put them.
const cachedKeys = 8

func (l *lab) replayOp(client *pgidem.Client, opts *pgidem.TxOpts) op {
	turn := make(turns, l.callers)
	return func(ctx context.Context, worker int) error {
		key := pgidem.Key{Scope: scope, ID: l.settledID(turn.next(worker), worker)}
		r, err := pgidem.DoTx(ctx, client, key, mustNotRun, opts)
		if err == nil && !r.Replayed {
			return fmt.Errorf("a finished key was not answered from its saved result: %+v", r)
		}
		return err
	}
}

func mustNotRun(context.Context, pgidem.Tx) (charge, error) {
	return charge{}, errors.New("the function of a finished key was run")
}

// turns counts each worker's operations, so that it goes round its keys. The padding keeps two workers off one cache line.
type turns []struct {
	n int
	_ [56]byte
}

func (t turns) next(worker int) int {
	t[worker].n++
	return t[worker].n
}

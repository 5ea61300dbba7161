package pgidem

import (
	"context"
	"math/rand/v2"
	"time"
)

// claimToSettle claims after a COMMIT whose answer was lost. It waits for the key's lock, because the old transaction
// may still be ending, and follows its own bound: the caller cannot do anything with "perhaps".
func (e *execution) claimToSettle(ctx context.Context) (*claim, error) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.client.config.FinishBound)
	defer cancel()
	deadline, _ := bounded.Deadline()
	for try := 1; ; try++ {
		cl, err := e.claim(bounded, deadline)
		if err == nil {
			return cl, nil
		}
		if pause(bounded, try) != nil {
			return nil, &Error{
				Key: e.key, Kind: ErrUnknownOutcome, Cause: e.unknown,
				Reason: "the answer to COMMIT was lost and the key could not be read since (" + err.Error() + "); ask again with the same key",
			}
		}
	}
}

// pause waits before the n-th repetition, 5 ms at first and 250 ms at most, with jitter.
func pause(ctx context.Context, n int) error {
	longest := min(5*time.Millisecond<<min(n-1, 10), 250*time.Millisecond)
	timer := time.NewTimer(longest/2 + rand.N(longest/2)) //nolint:gosec // Jitter needs no secrecy.
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

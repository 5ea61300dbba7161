package pgidem

import (
	"context"
	"sync/atomic"
)

// heldKey is how a context tells that it comes from inside an operation.
type heldKey struct {
	client *Client
	key    Key
	outer  *heldKey
	ended  atomic.Bool // its function has returned; the context may live on
}

type heldKeyContext struct{}

// heldBy returns the innermost operation that ctx comes from and that still runs, nil where there is none.
func heldBy(ctx context.Context) *heldKey {
	held, _ := ctx.Value(heldKeyContext{}).(*heldKey)
	for held != nil && held.ended.Load() {
		held = held.outer
	}
	return held
}

// holds reports whether one of the operations runs key itself: advisory locks are re-entrant, so the database would
// not stop it from running twice at once, and a wait in memory would be for itself.
func (h *heldKey) holds(c *Client, key Key) bool {
	for ; h != nil; h = h.outer {
		if h.client == c && h.key == key && !h.ended.Load() {
			return true
		}
	}
	return false
}

// of reports whether one of the operations is the client's and still runs.
func (h *heldKey) of(c *Client) bool {
	for ; h != nil; h = h.outer {
		if h.client == c && !h.ended.Load() {
			return true
		}
	}
	return false
}

// functionContext is the context that an operation's function gets: it tells calls made with it that the key is held.
func (c *Client) functionContext(ctx context.Context, key Key) (context.Context, context.CancelFunc) {
	held := &heldKey{client: c, key: key, outer: heldBy(ctx)}
	fnCtx, cancel := context.WithCancel(context.WithValue(ctx, heldKeyContext{}, held))
	return fnCtx, func() {
		held.ended.Store(true)
		cancel()
	}
}

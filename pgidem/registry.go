package pgidem

import (
	"slices"
	"sync"
)

// registry knows the operations of several steps that this client runs, by every claim token that they ever wrote. It is
// how the client tells its own rows that somebody works on from those that nobody does.
type registry struct {
	mu      sync.Mutex
	byToken map[string]*running
}

// running is one such operation. It is there before its claim is committed, and until it is settled.
type running struct {
	key Key

	// Under registry.mu.
	cancel     func(cause error) // ends the context of its function
	lost       error             // somebody else has it, as the tagger has found
	tokens     []string          // newest last
	claimed    bool              // its row is committed, so it can be re-tagged
	generation uint64            // of the instance that its row is tagged with
}

func newRegistry() *registry { return &registry{byToken: make(map[string]*running)} }

// add makes token one of r's, before it is written anywhere.
func (g *registry) add(r *running, token string, generation uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.tokens = append(r.tokens, token)
	if !r.claimed {
		r.generation = generation
	}
	g.byToken[token] = r
}

// confirm says that r's claim is committed, tagged with an instance of that generation. Where the instance has changed
// since, the row has to be tagged anew: nobody else has seen it yet.
func (g *registry) confirm(r *running, generation uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.claimed = true
	r.generation = generation
}

// leave is for an operation that is settled, or handed over to whoever claims it next.
func (g *registry) leave(r *running) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, token := range r.tokens {
		delete(g.byToken, token)
	}
}

// onLoss says how to end the context of r's function when somebody else takes r over, which may have been found already.
func (g *registry) onLoss(r *running, cancel func(cause error)) {
	g.mu.Lock()
	r.cancel = cancel
	lost := r.lost
	g.mu.Unlock()
	if lost != nil {
		cancel(lost)
	}
}

// lose ends the context of r's function.
func (g *registry) lose(r *running, cause error) {
	g.mu.Lock()
	r.lost = cause
	cancel := r.cancel
	g.mu.Unlock()
	if cancel != nil {
		cancel(cause)
	}
}

func (g *registry) has(token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.byToken[token] != nil
}

// wrote reports whether token is one of r's.
func (g *registry) wrote(r *running, token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(r.tokens, token)
}

// count is how many operations there are.
func (g *registry) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := make(map[*running]struct{}, len(g.byToken))
	for _, r := range g.byToken {
		seen[r] = struct{}{}
	}
	return len(seen)
}

// untagged lists the operations whose rows are tagged with an older instance than that of generation.
func (g *registry) untagged(generation uint64) []*running {
	g.mu.Lock()
	defer g.mu.Unlock()
	var old []*running
	for token, r := range g.byToken {
		if r.claimed && r.generation < generation && token == r.tokens[len(r.tokens)-1] {
			old = append(old, r)
		}
	}
	return old
}

// stale reports whether r's row is tagged with an older instance than that of generation.
func (g *registry) stale(r *running, generation uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.claimed && r.generation < generation
}

// behind reports whether an operation is, or is about to be, tagged with an older instance than that of generation.
func (g *registry) behind(generation uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.byToken {
		if r.generation < generation {
			return true
		}
	}
	return false
}

// current is the newest token of r.
func (g *registry) current(r *running) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.tokens[len(r.tokens)-1]
}

package pgidem

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
)

// behind is a client whose pool goes through a pooler of the test's own, and whose liveness connection does so too or goes directly.
func (b *bundle) behind(pooler *devpg.Pooler, livenessDSN string, edits ...func(*Config)) *Client {
	b.Helper()
	through, err := pgx.ParseConfig(pooler.URL(b.db))
	b.must(through, err)
	client, _, _ := b.newClient(direct("it has a pooler of its own"), withConfig(untimed),
		withConfig(func(c *Config) {
			c.LivenessDSN = livenessDSN
			for _, edit := range edits {
				edit(c)
			}
		}), withPool(func(p *pgxpool.Config) {
			c := p.ConnConfig
			c.Host, c.Port, c.TLSConfig, c.Fallbacks = through.Host, through.Port, through.TLSConfig, through.Fallbacks
			c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe // which every pooler takes
		}))
	return client
}

// Operations of several steps behind a pooler in transaction mode, with the liveness connection through it or beside it: they run,
// an owner that lives is waited for, and one that was killed is replaced.
func TestDoThroughAPooler(t *testing.T) {
	for name, beside := range map[string]bool{"Through": false, "LivenessDSN": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, direct("it has a pooler of its own"))
			pooler := devpg.NewPooler(t)
			livenessDSN := ""
			if beside {
				livenessDSN = b.db.URL()
			}
			client, other := b.behind(pooler, livenessDSN), b.behind(pooler, livenessDSN)
			here := b.journey("here")
			for _, itinerary := range []string{"ride", "ride at tx"} {
				b.key.ID = NewID()
				whole := &journey{key: b.key, who: "whole", book: here.book}
				for n, client := range []*Client{client, other} {
					got, err := whole.do(b.Context(), client, itinerary)
					b.wantResult(got, err, rideResult, n == 1)
				}
				whole.want(b, rodeOnce(), "create", "receipt")
			}
			b.key.ID = NewID()
			here.key = b.key
			throughIt, err := url.Parse(pooler.URL(b.db))
			b.must(throughIt, err)
			query := throughIt.Query()
			query.Set("default_query_exec_mode", "cache_describe")
			throughIt.RawQuery = query.Encode()
			owner := b.startRider(riderTask{
				Who: "owner", Itinerary: "ride", StopAt: "charge ends", URL: throughIt.String(), LivenessDSN: livenessDSN,
			})
			owner.says("charge ends")
			_, err = Do(b.Context(), other, b.key, here.ride, &DoOpts{WaitBound: NoWait})
			b.wantError(err, ErrInProgress)
			waiting := async(b, func() (Result[string], error) { return here.do(b.Context(), client, "ride") })
			b.waited(client, b.key, 0)
			owner.kill()
			a := answered(b, waiting)
			b.wantResult(a.Result, a.err, rideResult, false)
			here.want(b, killedOnce, "create", "receipt")
			b.wantAllGone(client, other)
		})
	}
}

// The server's side of the liveness connection is lost behind the pooler: the client learns of it, and its operation goes on.
func TestDoLosesItsLivenessBehindAPooler(t *testing.T) {
	b := setup(t, direct("it has a pooler of its own"))
	client := b.behind(devpg.NewPooler(t), "")
	here := b.journey("here")
	here.at = func(place string) {
		if place == "charge ends" {
			was := client.liveness.get().id
			b.killLiveness(client)
			b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", was, b.key.ID)
		}
	}
	got, err := here.do(b.Context(), client, "ride")
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
	here.want(b, rodeOnce(), "create", "receipt")
	b.wantAllGone(client)
}

// The pooler keeps a server connection for each liveness connection that goes through it, and what else a client does needs one more.
// Where there is none, it says so within FinishBound; one that has two is large enough.
func TestDoThroughASmallPooler(t *testing.T) {
	for name, beside := range map[string]bool{"Through": false, "LivenessDSN": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, direct("it has a pooler of its own"))
			livenessDSN := ""
			if beside {
				livenessDSN = b.db.URL()
			}
			here := b.journey("here")
			tight := b.behind(devpg.NewPooler(t, "default_pool_size=1"), livenessDSN, func(c *Config) { c.FinishBound = 2 * time.Second })
			_, err := here.do(b.notHung(), tight, "ride")
			b.wantError(err, ErrUnavailable)
			here.want(b, map[string]int{})

			enough := b.behind(devpg.NewPooler(t, "default_pool_size=2"), livenessDSN)
			got, err := here.do(b.notHung(), enough, "ride")
			b.wantResult(got, err, rideResult, false)
			here.want(b, rodeOnce(), "create", "receipt")
			b.wantAllGone(tight, enough)
		})
	}
}

// Two clients whose liveness connections have all that the pooler has: the second one's claim waits in the pooler, where only its context
// ends the wait. This is why LivenessDSN is advised.
func TestDoLivenessConnectionsFillThePooler(t *testing.T) {
	b := setup(t, direct("it has a pooler of its own"))
	pooler := devpg.NewPooler(t, "default_pool_size=2")
	here := b.journey("here")
	impatient := func(c *Config) { c.FinishBound = 2 * time.Second }
	first, second := b.behind(pooler, "", impatient), b.behind(pooler, "", impatient)
	b.must(nil, second.probeOnce(b.notHung()))
	got, err := here.do(b.notHung(), first, "ride")
	b.wantResult(got, err, rideResult, false)
	b.key.ID = NewID()
	here.key = b.key
	ctx, cancel := context.WithCancelCause(b.Context())
	defer cancel(nil)
	waiting := async(b, func() (Result[string], error) { return here.do(ctx, second, "ride") })
	b.until("both server connections are liveness connections", `SELECT count(*) = 2 FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'pgidem liveness'`)
	cancel(errOver)
	a := answered(b, waiting)
	if !errors.Is(a.err, errOver) {
		b.Errorf("got %v, want the context's cause", a.err)
	}
	b.must(nil, first.Close(b.Context()))
	got, err = here.do(b.notHung(), second, "ride")
	b.wantResult(got, err, rideResult, false)
	here.want(b, rodeOnce(), "create", "receipt")
	b.wantAllGone(second)
}

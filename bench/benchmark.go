package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// benchmark prepares the database at url, counts, measures and reports. A signal (ctx) ends it after the slice that
// runs; the report of what was measured until then comes with errInterrupted.
func benchmark(ctx context.Context, o options, url, server string, progress io.Writer) (_ *report, err error) {
	fmt.Fprintln(progress, "bench: preparing", server)
	s, err := newSite(ctx, url, o.callers)
	if err != nil {
		return nil, interrupted(ctx, err)
	}
	r := newReport(o, server)
	fmt.Fprintln(progress, "bench: counting round trips, commits, WAL and allocations")
	costs, err := s.costs(ctx, o.groups)
	if err != nil {
		return nil, interrupted(ctx, err)
	}
	if o.network > 0 {
		wire, err := s.slowDown(o.network)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, wire.close()) }()
	}
	if r.Machine.RoundTripMicros, err = s.roundTrip(ctx); err != nil {
		return nil, interrupted(ctx, err)
	}
	t, err := s.measure(ctx, o, progress)
	if err != nil && !errors.Is(err, errInterrupted) {
		return nil, err
	}
	r.Interrupted = err != nil
	r.add(o, costs, t)
	return r, err
}

// interrupted tells a failure from the end that a signal has brought about.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w before anything was measured", errInterrupted)
	}
	return err
}

// measure opens a lab for each number of callers, warms them up and runs the rounds. It returns what was measured also when
// it was interrupted.
func (s *site) measure(ctx context.Context, o options, progress io.Writer) (t tally, err error) {
	var benches []*bench
	defer func() {
		for _, b := range benches {
			err = errors.Join(err, b.close(ctx))
		}
	}()
	for _, callers := range o.callers {
		l, err := s.lab(context.WithoutCancel(ctx), callers, nil)
		if err != nil {
			return nil, err
		}
		benches = append(benches, l.bench(o.groups))
	}
	fmt.Fprintln(progress, "bench: warming up")
	for _, b := range benches {
		for _, g := range o.groups {
			if _, err := b.runGroup(ctx, g, 0, o.slice/2); err != nil {
				return tally{}, err
			}
		}
	}
	return runRounds(ctx, o, benches, progress)
}

func runRounds(ctx context.Context, o options, benches []*bench, progress io.Writer) (tally, error) {
	t := tally{}
	began, done, all := time.Now(), 0, o.rounds*len(benches)
	for round := range o.rounds {
		for i := range benches {
			b := benches[(round+i)%len(benches)]
			fmt.Fprintf(progress, "bench: round %d of %d, %s%s\n", round+1, o.rounds, callersName(b.callers), timeLeft(time.Since(began), done, all))
			for _, g := range o.groups {
				samples, err := b.runGroup(ctx, g, round, o.slice)
				if err != nil {
					return t, err
				}
				t.add(b.callers, g.order(round), samples)
			}
			done++
		}
	}
	return t, nil
}

// runGroup returns one sample for each slot of the group's order. It first brings the caches round to this pool and this
// work with a short slice that is thrown away. A signal ends it between slices: an operation that it cut off in the
// middle would be an error.
func (b *bench) runGroup(ctx context.Context, g group, round int, slice time.Duration) ([]sample, error) {
	work := context.WithoutCancel(ctx)
	if _, err := b.run(work, g.baseline, slice/4); err != nil {
		return nil, err
	}
	var samples []sample
	for _, v := range g.order(round) {
		if ctx.Err() != nil {
			return nil, errInterrupted
		}
		s, err := b.run(work, v, slice)
		if err != nil {
			return nil, err
		}
		samples = append(samples, s)
	}
	return samples, nil
}

func timeLeft(since time.Duration, done, all int) string {
	if done == 0 {
		return ""
	}
	left := since / time.Duration(done) * time.Duration(all-done)
	return fmt.Sprintf(", %v left", left.Round(time.Second))
}

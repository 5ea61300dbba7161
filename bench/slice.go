package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// sample is what one variant did in one slice.
type sample struct {
	rate      float64 // operations a second
	latencies []time.Duration
}

// runSlice lets all callers of the lab repeat the operation until the slice is over. Operations that have begun are
// finished and counted, so that slow ones are not lost, and so is the time that they take.
func (l *lab) runSlice(ctx context.Context, do op, slice time.Duration) (sample, error) {
	runtime.GC() // a variant does not pay for the garbage of the one before it
	latencies := make([][]time.Duration, l.callers)
	errs := make([]error, l.callers)
	start := make(chan struct{})
	var begin time.Time
	var wg sync.WaitGroup
	for worker := range l.callers {
		wg.Go(func() {
			<-start
			now := begin
			for now.Sub(begin) < slice && errs[worker] == nil {
				errs[worker] = do(ctx, worker)
				end := time.Now()
				latencies[worker] = append(latencies[worker], end.Sub(now))
				now = end
			}
		})
	}
	begin = time.Now()
	close(start)
	wg.Wait()
	took := time.Since(begin)

	var s sample
	for _, own := range latencies {
		s.latencies = append(s.latencies, own...)
	}
	s.rate = float64(len(s.latencies)) / took.Seconds()
	return s, errors.Join(errs...)
}

// bench is a lab with the operations of all variants set up in it.
type bench struct {
	*lab
	ops map[string]op
}

func (l *lab) bench(groups []group) *bench {
	b := &bench{lab: l, ops: map[string]op{}}
	for _, g := range groups {
		for _, v := range append([]variant{g.baseline}, g.others...) {
			b.ops[v.name] = v.setup(l)
		}
	}
	return b
}

func (b *bench) run(ctx context.Context, v variant, slice time.Duration) (sample, error) {
	s, err := b.runSlice(ctx, b.ops[v.name], slice)
	if err != nil {
		return sample{}, fmt.Errorf("%s, %s: %w", v.name, callersName(b.callers), err)
	}
	return s, nil
}

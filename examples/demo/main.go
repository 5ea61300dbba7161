// Command demo shows on a real PostgreSQL what pgidem promises. It starts two servers of examples/quickstart on one
// database, retries, kills one server in the middle of a transaction, and counts in the database what came of it:
//
//	make demo
//	go run ./examples/demo --json
//
// Nothing is staged inside the servers. What decides who is where at which moment is a trigger in the demo's database
// (gate.go), so that the run has no timing to get right. The demo fails when one answer or one count is not as it says.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// runBound is far above what a run takes, an image's download included.
const runBound = 5 * time.Minute

func main() {
	asJSON := flag.Bool("json", false, "print one JSON object instead of the story")
	flag.Parse()
	var to printer = newStory(os.Stdout)
	if *asJSON {
		to = &document{to: os.Stdout}
	}
	if err := run(to); err != nil { // the printer has told it
		os.Exit(1)
	}
}

// run is main without its exit: everything that was started is stopped when it returns.
func run(to printer) error {
	// Never given back: Ctrl-C at the very end, when all is told and stopped, is no failure.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, runBound, fmt.Errorf("it took longer than %v", runBound))
	defer cancel()
	return tell(ctx, new(world), to)
}

// tell runs the demo and reports to the printer what happened, the end and an error included.
func tell(ctx context.Context, w *world, to printer) (err error) {
	began := time.Now()
	r := &w.report
	defer func() {
		err = errors.Join(err, w.close())
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause // what failed meanwhile failed because of it
		}
		if err != nil {
			r.Error = err.Error()
		}
		r.OK = err == nil
		r.Elapsed = since(began)
		to.end(*r)
	}()
	to.begin()
	if err := w.open(ctx); err != nil {
		return err
	}
	to.world(*r)
	for i, s := range steps {
		to.step(i+1, s.title)
		began, before := time.Now(), r.Requests
		outcome, err := s.run(ctx, w)
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		done := stepReport{Title: s.title, Outcome: outcome, Requests: r.Requests - before, Elapsed: since(began)}
		r.Steps = append(r.Steps, done)
		to.outcome(done)
	}
	return w.count(ctx)
}

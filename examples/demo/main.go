// Command demo shows on a real PostgreSQL what pgidem promises:
//
//	make demo
//	go run ./examples/demo --json
//
// First, two servers of examples/quickstart on one database: it retries, kills one server in the middle of a transaction,
// and counts in the database what came of it (steps.go). Then, two servers of examples/rides and their payment provider:
// ride after ride is interrupted when the customer has been charged, by kill -9, a lost answer or SIGTERM, and goes on at
// the other server (runs.go).
//
// Nothing is staged inside the servers. What decides who is where at which moment is a trigger in the demo's database
// (gate.go) and the provider's test cards, so that the run has no timing to get right. The demo fails when one answer or
// one count is not as it says; its last line is for scripts. To see it fail, have the provider forget what a retry is:
//
//	IGNORE_KEYS=1 make demo
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// runBound is far above what a run takes, an image's download included.
const runBound = 5 * time.Minute

func main() {
	runtime.LockOSThread() // what starts the servers has to live as long as the demo, see tie
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
			r.Error = strings.ReplaceAll(err.Error(), "\n", "; ") // in the last line, whole
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
	if err := w.shop.play(ctx, to); err != nil {
		return err
	}
	return w.fleet.play(ctx, to)
}

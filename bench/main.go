package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/pgidem/pgidem/internal/devpg"
)

// errInterrupted ends a run after a signal, when what was measured so far is written.
var errInterrupted = errors.New("interrupted")

// interruptedCode is what shells give a program that SIGINT ended.
const interruptedCode = 130

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(interruptedCode)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run is main with its surroundings as arguments. It gets a server, measures and writes what the options ask for.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parseOptions(args, stderr)
	if err != nil {
		return err
	}
	server, err := devpg.Start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	db, err := server.NewDatabase(ctx)
	if err != nil {
		return err
	}
	r, err := benchmark(ctx, o, db.URL(), server.Describe(), stderr)
	if r == nil {
		return err
	}
	return errors.Join(err, write(r, o, stdout))
}

// write puts the report on stdout and the plot into its file.
func write(r *report, o options, stdout io.Writer) error {
	text := r.markdown()
	if o.json {
		var err error
		if text, err = r.json(); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(stdout, text); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if o.plot == "" {
		return nil
	}
	if err := os.WriteFile(o.plot, []byte(r.plot()), 0o644); err != nil { //nolint:gosec // A picture for everybody to read.
		return fmt.Errorf("write the plot: %w", err)
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// No test may hang on a bug: one that waits for a thing that never comes must say so itself, sooner than this.
const testTimeout = 2 * time.Minute

// cleanTimeout is for the tests of all bugs at once.
const cleanTimeout = 15 * time.Minute

// An outcome is what one run of `go test -json` showed.
type outcome struct {
	passed, failed, skipped []string // tests, by full name
	brokenBuild             bool
	panicked                bool
	output                  string
}

// runTest runs a check in the tree. A failing test is an outcome, not an error.
func runTest(ctx context.Context, tree string, check check, timeout time.Duration) (outcome, error) {
	command := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-timeout", timeout.String(),
		"-run", check.regexp, check.pattern)
	command.Dir = tree
	command.Stderr = os.Stderr
	// The test may own processes that it stops when it is interrupted.
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	events, err := command.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return outcome{}, err
	}
	if ctx.Err() != nil {
		return outcome{}, ctx.Err()
	}
	return readOutcome(events)
}

// readOutcome reads the events of `go test -json` (see go doc test2json).
func readOutcome(events []byte) (outcome, error) {
	var read outcome
	var output strings.Builder
	for decoder := json.NewDecoder(bytes.NewReader(events)); ; {
		var event struct{ Action, Test, Output string }
		err := decoder.Decode(&event)
		if errors.Is(err, io.EOF) {
			read.output = output.String()
			return read, nil
		}
		if err != nil {
			return outcome{}, fmt.Errorf("go test -json: %w", err)
		}
		output.WriteString(event.Output)
		read.panicked = read.panicked || strings.HasPrefix(event.Output, "panic: ")
		switch {
		case event.Action == "build-fail":
			read.brokenBuild = true
		case event.Test == "":
		case event.Action == "pass":
			read.passed = append(read.passed, event.Test)
		case event.Action == "fail":
			read.failed = append(read.failed, event.Test)
		case event.Action == "skip":
			read.skipped = append(read.skipped, event.Test)
		}
	}
}

// of is the part of an outcome that is about a check.
func (o outcome) of(c check) outcome {
	top := regexp.MustCompile(c.top()) // `go test` has compiled it before
	others := func(test string) bool {
		name, _, _ := strings.Cut(test, "/")
		return !top.MatchString(name)
	}
	o.passed = slices.DeleteFunc(slices.Clone(o.passed), others)
	o.failed = slices.DeleteFunc(slices.Clone(o.failed), others)
	o.skipped = slices.DeleteFunc(slices.Clone(o.skipped), others)
	return o
}

// proves returns an error unless the outcome says something about the code under test.
func (o outcome) proves() error {
	switch {
	case o.brokenBuild:
		return fmt.Errorf("does not compile\n%s", o.output)
	case o.panicked:
		// The goroutines of the test binary, hundreds of lines, come after this.
		said, _, _ := strings.Cut(o.output, "\n\ngoroutine ")
		return fmt.Errorf("the test panicked or ran into its timeout instead of failing by an assertion\n%s", said)
	case len(o.skipped) > 0:
		return fmt.Errorf("%s was skipped\n%s", strings.Join(o.skipped, ", "), o.output)
	case len(o.passed)+len(o.failed) == 0:
		return fmt.Errorf("no test ran: does the regexp name one?\n%s", o.output)
	}
	return nil
}

func (o outcome) requirePass() error {
	if err := o.proves(); err != nil {
		return err
	}
	if len(o.failed) > 0 {
		return fmt.Errorf("%s fails already\n%s", strings.Join(o.failed, ", "), o.output)
	}
	return nil
}

// caught names the tests that failed, the innermost where subtests did; none if the bug survived.
func (o outcome) caught() ([]string, error) {
	if err := o.proves(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(o.failed), func(test string) bool {
		return slices.ContainsFunc(o.failed, func(other string) bool { return strings.HasPrefix(other, test+"/") })
	}), nil
}

// Command teeth plants known bugs, each alone, and requires that the test named for each catches it.
//
// A bug is a unified diff against the tree, internal/teeth/NAME.patch, that begins with two lines:
//
//	# test: TestRegexp ./package
//	# breaks: the promise that no longer holds
//
// The tree is copied, and a bug lives in a copy; each test must first pass there without its bug. A bug is caught when the test then fails
// by an assertion. A bug that does not apply, does not compile, panics or hangs has proved nothing, and is an error.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "teeth:", err)
		os.Exit(1)
	}
}

// run tries the bugs whose names are given, or all of them, several at a time.
func run(ctx context.Context, names []string) error {
	bugs, err := findBugs("internal/teeth", names)
	if err != nil {
		return err
	}
	wood, err := os.MkdirTemp("", "pgidem-teeth-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(wood) }()
	var trees []string
	for n := range min(runtime.NumCPU(), len(bugs), maxTrees) {
		tree := filepath.Join(wood, strconv.Itoa(n))
		if err := copyTree(".", tree); err != nil {
			return err
		}
		trees = append(trees, tree)
	}
	fmt.Printf("%d bugs; first their tests without them\n", len(bugs))
	clean, err := runClean(ctx, trees[0], bugs)
	if err != nil {
		return err
	}
	trials := tryAll(ctx, trees, bugs, clean)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return report(bugs, trials)
}

// maxTrees is how many bugs are tried at a time at most: all of them share one server.
const maxTrees = 4

// trial is what became of a planted bug: the tests that caught it, or why it has proved nothing.
type trial struct {
	by  []string
	err error
}

// tryAll plants each bug in one of the trees.
func tryAll(ctx context.Context, trees []string, bugs []bug, clean map[string]outcome) []trial {
	trials := make([]trial, len(bugs))
	var next atomic.Int64
	var workers sync.WaitGroup
	for _, tree := range trees {
		workers.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(bugs) && ctx.Err() == nil; n = int(next.Add(1)) - 1 {
				fmt.Printf("planting %s (%d of %d)\n", bugs[n].name, n+1, len(bugs))
				trials[n] = try(ctx, tree, bugs[n], clean[bugs[n].check.pattern])
			}
		})
	}
	workers.Wait()
	return trials
}

func report(bugs []bug, trials []trial) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nbug\tpromise\tcaught by")
	var open []string // bugs that were not caught
	for n, bug := range bugs {
		by, err := trials[n].by, trials[n].err
		verdict := strings.Join(by[:min(len(by), 2)], ", ")
		if len(by) > 2 {
			verdict += fmt.Sprintf(" and %d more", len(by)-2)
		}
		switch {
		case err != nil:
			fmt.Printf("%s: %v\n", bug.name, err)
			verdict = "PROVES NOTHING, see above"
			open = append(open, bug.name)
		case len(by) == 0:
			verdict = "NOTHING: " + bug.check.String() + " passed"
			open = append(open, bug.name)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", bug.name, bug.breaks, verdict)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(open) > 0 {
		return fmt.Errorf("%d of %d planted bugs were not caught, so nothing shows that their promises are tested: %s",
			len(open), len(bugs), strings.Join(open, ", "))
	}
	return nil
}

// try plants a bug whose test passes without it.
func try(ctx context.Context, tree string, bug bug, clean outcome) trial {
	if err := clean.of(bug.check).requirePass(); err != nil {
		return trial{err: fmt.Errorf("without the bug: %w", err)}
	}
	by, err := plant(ctx, tree, bug)
	return trial{by, err}
}

// plant runs a bug's test on the tree with the bug in it, and returns the tests that caught it.
func plant(ctx context.Context, tree string, bug bug) ([]string, error) {
	patch, err := filepath.Abs(bug.patch)
	if err != nil {
		return nil, err
	}
	if err := apply(ctx, tree, patch); err != nil {
		return nil, err
	}
	outcome, testErr := runTest(ctx, tree, bug.check, testTimeout)
	// Taken out again whatever the test said: the next bug needs the tree as it was.
	if err := apply(context.WithoutCancel(ctx), tree, patch, "--reverse"); err != nil {
		return nil, err
	}
	if testErr != nil {
		return nil, testErr
	}
	return outcome.caught()
}

// runClean runs the tests of all bugs without a bug, each package's in one go.
func runClean(ctx context.Context, tree string, bugs []bug) (map[string]outcome, error) {
	tests := map[string][]string{}
	for _, bug := range bugs {
		if top := "(" + bug.check.top() + ")"; !slices.Contains(tests[bug.check.pattern], top) {
			tests[bug.check.pattern] = append(tests[bug.check.pattern], top)
		}
	}
	clean := map[string]outcome{}
	for pattern, regexps := range tests {
		outcome, err := runTest(ctx, tree, check{strings.Join(regexps, "|"), pattern}, cleanTimeout)
		if err != nil {
			return nil, err
		}
		if outcome.brokenBuild || outcome.panicked {
			return nil, fmt.Errorf("without any bug, %s: %w", pattern, outcome.proves())
		}
		clean[pattern] = outcome
	}
	return clean, nil
}

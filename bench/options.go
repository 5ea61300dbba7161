package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultRounds = 10
	// defaultSlice is shorter than the disturbances of a shared machine, so that neighbours meet the same one.
	defaultSlice = 100 * time.Millisecond
	// shortestSlice holds a few operations of every variant; a shorter one would measure its own start.
	shortestSlice = 10 * time.Millisecond
	// mostCallers keeps a mistyped number from opening thousands of connections.
	mostCallers = 500
)

// options is what the command line asks for.
type options struct {
	rounds  int // 0: what fits into budget, or defaultRounds
	slice   time.Duration
	budget  time.Duration // 0: none
	callers []int
	groups  []group
	network time.Duration // added to each direction
	json    bool
	plot    string
	asTyped []string
}

// parseOptions reads the command line; what is wrong with it, or the help, goes to stderr.
func parseOptions(args []string, stderr io.Writer) (options, error) {
	o := options{asTyped: args}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.rounds, "rounds", 0, "how many times each variant is measured (default what fits into -time, or 10)")
	flags.DurationVar(&o.slice, "slice", defaultSlice, "how long one variant runs at a time, at least 10ms")
	flags.DurationVar(&o.budget, "time", 0, "about how long to measure, all in all: limits the rounds, and shortens the slices where not even one round fits (default as long as the rounds take)")
	concurrency := flags.String("concurrency", "1,8,32", "how many callers work at the same time, each on a connection of its own")
	names := flags.String("variants", "", "names from the list below, by comma; their baselines come along (default all)")
	flags.DurationVar(&o.network, "network", 0, "delay added to each direction between here and the server, for example 250us")
	flags.BoolVar(&o.json, "json", false, "write the report as JSON instead of tables")
	flags.StringVar(&o.plot, "plot", "", "also draw the ratios into this `file`, as SVG")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "Usage: bench [flags]\n\nMeasures what idempotency costs beside the bare transaction.")
		flags.PrintDefaults()
		fmt.Fprint(stderr, "\nVariants:\n", variantList())
	}
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	var err error
	switch {
	case flags.NArg() > 0:
		return options{}, fmt.Errorf("%q is not a flag; see -help", flags.Arg(0))
	case o.rounds < 0 || o.budget < 0 || o.network < 0:
		return options{}, errors.New("-rounds, -time and -network cannot be negative")
	case o.slice < shortestSlice:
		return options{}, fmt.Errorf("-slice %v is too short to measure anything: at least %v", o.slice, shortestSlice)
	}
	if o.callers, err = parseCallers(*concurrency); err != nil {
		return options{}, err
	}
	if o.groups, err = selectGroups(*names); err != nil {
		return options{}, err
	}
	return o.planned(), nil
}

func parseCallers(list string) ([]int, error) {
	var callers []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > mostCallers {
			return nil, fmt.Errorf("-concurrency %s: %q is not a number from 1 to %d", list, text, mostCallers)
		}
		if slices.Contains(callers, n) {
			return nil, fmt.Errorf("-concurrency %s: %d stands there twice", list, n)
		}
		callers = append(callers, n)
	}
	return callers, nil
}

// planned settles rounds and slice, so that all of them end within the budget.
func (o options) planned() options {
	if o.budget == 0 {
		if o.rounds == 0 {
			o.rounds = defaultRounds
		}
		return o
	}
	perRound := int64(len(o.callers) * slicesPerRound(o.groups))
	if o.slice > o.budget/time.Duration(perRound) {
		o.slice = max(o.budget/time.Duration(perRound), shortestSlice)
	}
	fit := max(1, int(int64(o.budget/o.slice)/perRound))
	if o.rounds == 0 || o.rounds > fit {
		o.rounds = fit
	}
	return o
}

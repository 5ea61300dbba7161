package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// A variant is one way to do the work.
type variant struct {
	name     string
	question string // that its numbers answer
	baseline string // the variant that it is compared with; "" makes it a baseline itself
	setup    func(*lab) op
}

// op does the work once. Each of the lab's workers, counted from 0, calls it in a loop of its own.
type op func(ctx context.Context, worker int) error

// variants are all of them, in the order of the report.
func variants() []variant {
	return []variant{
		bare(),
		handwritten(),
		dotx(),
		dotxLast(),
		dobatch(),
		bareSelect(),
		replay(),
		replayKnown(),
		replayCached(),
	}
}

func variantList() string {
	var b strings.Builder
	for _, v := range variants() {
		beside := "is a baseline"
		if v.baseline != "" {
			beside = "beside " + v.baseline
		}
		fmt.Fprintf(&b, "  %-14s %s (%s)\n", v.name, v.question, beside)
	}
	return b.String()
}

// group is a baseline and the variants that are compared with it.
type group struct {
	baseline variant
	others   []variant
}

// selectGroups returns the groups of the variants named in list, or all of them.
func selectGroups(list string) ([]group, error) {
	all := variants()
	var names []string
	for _, v := range all {
		names = append(names, v.name)
	}
	wanted := names
	if list != "" {
		wanted = strings.Split(list, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("-variants: there is no variant %q; there are %s", name, strings.Join(names, ", "))
		}
	}
	var groups []group
	for _, baseline := range all {
		if baseline.baseline != "" {
			continue
		}
		g := group{baseline: baseline}
		for _, v := range all {
			if v.baseline == baseline.name && slices.Contains(wanted, v.name) {
				g.others = append(g.others, v)
			}
		}
		if len(g.others) > 0 || slices.Contains(wanted, baseline.name) {
			groups = append(groups, g)
		}
	}
	return groups, nil
}

// order returns what runs in one round: each variant between two slices of the baseline, first another one in each round.
func (g group) order(round int) []variant {
	slots := []variant{g.baseline}
	for i := range g.others {
		slots = append(slots, g.others[(round+i)%len(g.others)], g.baseline)
	}
	if len(g.others) == 0 { // alone, it is compared with itself
		slots = append(slots, g.baseline)
	}
	return slots
}

func slicesPerRound(groups []group) int {
	n := 0
	for _, g := range groups {
		n += len(g.order(0))
	}
	return n
}

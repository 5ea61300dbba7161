package main

import (
	"slices"
	"testing"
)

func names(order []variant) []string {
	var all []string
	for _, v := range order {
		all = append(all, v.name)
	}
	return all
}

func TestOrderRotates(t *testing.T) {
	t.Parallel()
	g := group{variant{name: "b"}, []variant{{name: "x"}, {name: "y"}, {name: "z"}}}
	for round, want := range [][]string{
		{"b", "x", "b", "y", "b", "z", "b"},
		{"b", "y", "b", "z", "b", "x", "b"},
		{"b", "z", "b", "x", "b", "y", "b"},
		{"b", "x", "b", "y", "b", "z", "b"},
	} {
		if got := names(g.order(round)); !slices.Equal(got, want) {
			t.Errorf("round %d runs %v, not %v", round, got, want)
		}
	}
}

func TestBaselineAloneIsComparedWithItself(t *testing.T) {
	t.Parallel()
	if got, want := names(group{baseline: variant{name: "b"}}.order(3)), []string{"b", "b"}; !slices.Equal(got, want) {
		t.Errorf("it runs %v, not %v", got, want)
	}
}

func TestEveryVariantHasItsBaseline(t *testing.T) {
	t.Parallel()
	groups, err := selectGroups("")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, g := range groups {
		seen[g.baseline.name]++
		for _, v := range g.others {
			seen[v.name]++
		}
	}
	for _, v := range variants() {
		if seen[v.name] != 1 {
			t.Errorf("%s is in %d groups: names are unique, and a baseline is a variant without one", v.name, seen[v.name])
		}
		if v.question == "" || v.setup == nil {
			t.Errorf("%s has no question or no setup", v.name)
		}
	}
}

func TestSelectGroups(t *testing.T) {
	t.Parallel()
	groups, err := selectGroups("replay,dotx_last")
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, g := range groups {
		got = append(got, names(g.order(0)))
	}
	if want := [][]string{{"bare", "dotx_last", "bare"}, {"bare_select", "replay", "bare_select"}}; !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("selected are %v, not %v", got, want)
	}
	if _, err := selectGroups("dotx,nothing"); err == nil {
		t.Error("a variant that does not exist was accepted")
	}
}

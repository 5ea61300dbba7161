package main

import (
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, not %v", test.values, got, test.want)
		}
	}
}

func TestMedianLeavesItsArgumentAlone(t *testing.T) {
	t.Parallel()
	values := []float64{3, 1, 2}
	median(values)
	if values[0] != 3 || values[1] != 1 || values[2] != 2 {
		t.Errorf("the values are %v afterwards", values)
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	var hundred []time.Duration
	for i := 100; i >= 1; i-- {
		hundred = append(hundred, time.Duration(i))
	}
	for _, test := range []struct {
		values []time.Duration
		q      float64
		want   time.Duration
	}{
		{nil, .5, 0},
		{hundred, 0, 1},
		{hundred, .5, 50},
		{hundred, .99, 99},
		{hundred, 1, 100},
		{hundred[:1], .01, 100},
	} {
		if got := quantile(test.values, test.q); got != test.want {
			t.Errorf("quantile %v of %d values is %d, not %d", test.q, len(test.values), got, test.want)
		}
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	if got, want := spreadOf([]float64{.8, .6, 1.2}), (spread{Median: .8, Min: .6, Max: 1.2, Count: 3}); got != want {
		t.Errorf("the spread is %+v, not %+v", got, want)
	}
	if got := spreadOf(nil); got != (spread{}) {
		t.Errorf("the spread of nothing is %+v", got)
	}
}

func TestRatioIsToTheNeighbours(t *testing.T) {
	t.Parallel()
	base, x, y := variant{name: "base"}, variant{name: "x", baseline: "base"}, variant{name: "y", baseline: "base"}
	tl := tally{}
	// The machine gets four times as fast while it measures: x and y are half of the baseline all the same.
	tl.add(8, []variant{base, x, base, y, base}, []sample{{rate: 100}, {rate: 75}, {rate: 200}, {rate: 150}, {rate: 400}})
	tl.add(8, []variant{base, y, base, x, base}, []sample{{rate: 100}, {rate: 100}, {rate: 100}, {rate: 50}, {rate: 100}})
	for c, want := range map[cell]spread{
		{"x", 8}:    {Median: .5, Min: .5, Max: .5, Count: 2},
		{"y", 8}:    {Median: .75, Min: .5, Max: 1, Count: 2},
		{"base", 8}: {Median: 1.5, Min: 1, Max: 2, Count: 4},
		{"x", 1}:    {},
	} {
		if got := spreadOf(tl.of(c).ratios); got != want {
			t.Errorf("%v: the ratios are %+v, not %+v", c, got, want)
		}
	}
	if got := median(tl.of(cell{"x", 8}).rates); got != 62.5 {
		t.Errorf("the median rate of x is %v, not 62.5", got)
	}
}

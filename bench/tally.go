package main

import "time"

// cell is a place in the result: one variant with one number of callers.
type cell struct {
	variant string
	callers int
}

// series is what was measured for a cell in all rounds.
type series struct {
	ratios    []float64 // to the baseline, one a round; of a baseline: each slice over the one before it
	rates     []float64 // operations a second, one a slice
	latencies []time.Duration
}

type tally map[cell]*series

// add takes in one round of a group: samples holds one slice for each slot of order, in which every second one
// is the baseline's.
func (t tally) add(callers int, order []variant, samples []sample) {
	for i, v := range order {
		s := t.of(cell{v.name, callers})
		s.rates = append(s.rates, samples[i].rate)
		s.latencies = append(s.latencies, samples[i].latencies...)
		if r, ok := ratio(order, samples, i); ok {
			s.ratios = append(s.ratios, r)
		}
	}
}

func (t tally) of(c cell) *series {
	if t[c] == nil {
		t[c] = &series{}
	}
	return t[c]
}

// ratio compares slot i with the baseline's slices beside it. The baseline's first slice has nothing to be compared with.
func ratio(order []variant, samples []sample, i int) (r float64, ok bool) {
	if order[i].baseline != "" {
		return samples[i].rate * 2 / (samples[i-1].rate + samples[i+1].rate), true
	}
	for before := i - 1; before >= 0; before-- {
		if order[before].name == order[i].name {
			return samples[i].rate / samples[before].rate, true
		}
	}
	return 0, false
}

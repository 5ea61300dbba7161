package main

import (
	"math"
	"slices"
)

type number interface{ ~int64 | ~float64 }

// median returns the middle of values, or the mean of the two in the middle; 0 for none.
func median[N number](values []N) N {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// quantile returns the smallest of values that is not less than the part q of them; 0 for none.
func quantile[N number](values []N, q float64) N {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// spreadOf summarises the rounds' ratios.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	return spread{Median: round(median(values), 3), Min: round(slices.Min(values), 3), Max: round(slices.Max(values), 3), Count: len(values)}
}

package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// markdown is the report for people: tables that are aligned on a terminal and can be pasted into a document.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n%s\n", r.Machine, r.howMeasured())
	fmt.Fprintf(&b, "\nThroughput as a ratio to the baseline, median [smallest to largest]:\n\n%s", r.ratios().text())
	fmt.Fprintf(&b, "\nPer operation:\n\n%s", r.perOp().text())
	fmt.Fprintf(&b, "\nMedian operations a second, and latency p50/p99 in microseconds:\n\n%s\n", r.rates().text())
	for _, v := range r.Variants {
		fmt.Fprintf(&b, "- `%s`: %s\n", v.Name, v.Question)
	}
	return b.String()
}

func (r *report) howMeasured() string {
	text := fmt.Sprintf("%s, rounds: %d, slices of %v ms", r.Taken.Format("2006-01-02"), r.Settings.Rounds, r.Settings.SliceMillis)
	if r.Settings.NetworkMicro > 0 {
		text += fmt.Sprintf(", with %v us added to each direction", r.Settings.NetworkMicro)
	}
	if r.Interrupted {
		text += ", interrupted: the numbers are of the rounds before"
	}
	return text
}

func (r *report) ratios() table {
	t := table{r.header("variant", "baseline")}
	for _, v := range r.Variants {
		row := []string{v.Name, v.Baseline}
		if v.Baseline == "" {
			row[1] = "(itself: noise)"
		}
		for _, m := range v.Measured {
			row = append(row, m.Ratio.String())
		}
		t = append(t, row)
	}
	return t
}

func (r *report) perOp() table {
	t := table{{"variant", "round trips", "commits", "WAL bytes", "allocations"}}
	for _, v := range r.Variants {
		t = append(t, []string{
			v.Name, fmt.Sprint(v.PerOp.RoundTrips), fmt.Sprint(v.PerOp.Commits), fmt.Sprint(v.PerOp.WALBytes), fmt.Sprint(v.PerOp.Allocs),
		})
	}
	return t
}

func (r *report) rates() table {
	t := table{r.header("variant")}
	for _, v := range r.Variants {
		row := []string{v.Name}
		for _, m := range v.Measured {
			text := "-"
			if m.PerSecond > 0 {
				text = fmt.Sprintf("%.0f (%.0f/%.0f)", m.PerSecond, m.P50Micros, m.P99Micros)
			}
			row = append(row, text)
		}
		t = append(t, row)
	}
	return t
}

func (r *report) header(first ...string) []string {
	for _, n := range r.Settings.Callers {
		first = append(first, callersName(n))
	}
	return first
}

func callersName(n int) string {
	if n == 1 {
		return "1 caller"
	}
	return fmt.Sprintf("%d callers", n)
}

func (s spread) String() string {
	if s.Count == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f [%.2f to %.2f]", s.Median, s.Min, s.Max)
}

// table is rows of cells, the first of them the header.
type table [][]string

// text pads every cell to its column's width.
func (t table) text() string {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, text := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	var b strings.Builder
	for n, row := range t {
		for i, text := range row {
			fmt.Fprintf(&b, "| %-*s ", widths[i], text)
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				b.WriteString("|" + strings.Repeat("-", width+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}

// Command bench measures what idempotency costs beside the same work without it, in one run on one machine.
//
//	go run ./bench                          # or: make bench
//	go run ./bench -rounds 1 -slice 20ms    # a smoke run
//	go run ./bench -variants dotx,dotx_last -concurrency 8 -network 250us
//	go run ./bench -json > report.json
//
// # Method
//
// Each [variant] has a baseline that does the same work without idempotency. Absolute numbers of a machine move by a
// third within minutes, so what is reported first is a ratio of neighbours: in each round every variant runs for a short
// slice between two slices of its baseline, and its ratio is its throughput over the mean of those two. The order of
// the variants rotates from round to round, so that none is always measured in the same place. Reported are median, smallest
// and largest ratio over the rounds. A baseline's own line is each of its slices over the one before it: what a
// machine with these neighbours can tell apart.
//
// Round trips, commits, WAL and allocations of an operation are counted in a pass of their own, without a clock. The
// first slices of every connection are thrown away. A server that may lose commits (fsync, full_page_writes or
// synchronous_commit off) is refused: it would make the cheap part of an operation expensive.
//
// # A new variant
//
// is one constructor in a variant_….go file and one line in [variants].
package main

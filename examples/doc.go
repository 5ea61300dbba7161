// Package examples holds programs that use pgidem as a service would. Each directory is one program:
//
//   - quickstart: an HTTP server whose POST is safe to retry
//   - rides: an HTTP server whose POST has several steps, one of them a charge at a payment provider (rides/provider)
//   - demo: what `make demo` runs: retries, crashes and takeovers, on a real PostgreSQL and two servers of each of them
package examples

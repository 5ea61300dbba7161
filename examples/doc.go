// Package examples holds programs that use pgidem as a service would. Each directory is one program:
//
//   - quickstart: an HTTP server whose POST is safe to retry
//   - demo: what `make demo` runs: retries, a crash and a takeover, on a real PostgreSQL and two quickstart servers
package examples

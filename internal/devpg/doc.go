// Package devpg gets a real PostgreSQL for tests, examples and benchmarks. It tries three ways, in this order:
//
//	way     used when                                          what it is
//	url     PGIDEM_DATABASE_URL is set                         that server; only databases named pgidem_test_… and
//	                                                           pgidem_kept_… are created, no other is touched
//	docker  an engine answers and has the image, or            a container of its own (testcontainers-go), max_connections 300
//	        gets it within a minute                            and, where the engine is local, its port on loopback only
//	local   initdb, postgres and pg_ctl are on this machine    a cluster of its own in a temporary folder, TCP on
//	                                                           127.0.0.1, scram password, not run as root
//
// Where none works, the error names all three, why each failed, and the command that installs a server here.
// An explicitly set URL that does not work is an error too: nothing else is tried in its place. So is a pooler
// that cannot be started.
//
//	variable                 meaning
//	PGIDEM_DATABASE_URL      a postgres:// URL of a direct connection (no pooler); the role needs CREATEDB
//	PGIDEM_POSTGRES          url, docker or local: only this way; when it fails, that is the error
//	PGIDEM_POSTGRES_IMAGE    the container's image; default postgres:17
//	PGIDEM_POSTGRES_BINDIR   where the server binaries are; default: PATH, then the usual folders, newest first
//	PGIDEM_POOLER            local or docker: also a PgBouncer in front of the server, in transaction mode, for the tests that go
//	                         through [Server.Pooler]: this machine's pgbouncer (not run as root), or an image's on the host's network
//	PGIDEM_POOLER_IMAGE      that image, with pgbouncer on its PATH; default pgbouncer:1.24
//	PGIDEM_POOLER_SETTINGS   more lines for pgbouncer.ini, separated by semicolons: max_prepared_statements=0;query_timeout=5
//	PGIDEM_KEEP=1            keep the database of a failed test, and with it the server that devpg started
//	PGIDEM_INSTALL           1 lets "devpg ensure" run the package manager (with sudo) for a user who is not root, 0 forbids it
//	                         for root too
//
// Durability is never traded for speed: fsync, full_page_writes and synchronous_commit are on, and a server
// where one of them is off is refused, because what is tested here is what survives a crash.
//
// # Whatever was started is stopped
//
// [Start] runs a second process, the keeper: this same executable, recognised by an environment variable before any other
// code of the program. The keeper starts the server and holds the read end of a pipe. When the pipe ends, because of
// [Server.Close] or because the process is gone, kill -9 included, it removes the pooler, and then the container, the cluster or the run's databases.
// A normal end and a crash are thus one code path.
//
// On a server given by URL several runs may work at once. Each keeper holds an advisory lock on its run's ID;
// databases of runs whose lock is free were left behind (the keeper itself was killed) and are dropped at the next start.
// Databases of failed tests that were kept are never dropped by devpg. The next local pooler that is started sweeps those of
// killed keepers in the same way, where there is a ps command. A container is removed by testcontainers' reaper, where that is not
// disabled; a local cluster whose keeper was killed stays until somebody stops it.
// On the server of "devpg exec", which goes away itself, a run leaves its databases to that.
//
// # Tests
//
//	func TestMain(m *testing.M) { devpg.Main(m) }
//
//	func TestSomething(t *testing.T) {
//		t.Parallel()
//		pool := devpg.New(t).Pool(t)
//		…
//	}
//
// A testable example has no t: it takes a database of the server of [Shared].
//
// To share one server between the test binaries of a run, and to see what a machine lacks:
//
//	go run ./internal/devpg/cmd/devpg exec -- go test ./...
//	go run ./internal/devpg/cmd/devpg ensure
package devpg

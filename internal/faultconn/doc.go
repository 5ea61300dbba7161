// Package faultconn breaks and observes real connections to PostgreSQL at a
// chosen message of the protocol. It stands between pgx and the socket:
//
//	       Write ─▶ frames ─▶ queue ──▶ [point?] ──▶
//	pgx                                              real socket ── PostgreSQL
//	       Read ◀─ ready ◀── [point?] ◀── queue ◀─ frames
//
// Both directions are cut into frames, and each frame is looked at once, when
// it is its turn to be delivered: it is counted, recorded if somebody asked for
// it, and compared with the armed faults. There are no goroutines: everything
// happens in the caller's Read and Write, and in [Fault.Release].
//
//	faults := faultconn.New()
//	faults.Configure(poolConfig)
//	cut := faults.Cut(faultconn.Point{SQL: "commit", When: faultconn.After})
//	// … the client gets an error, the server has committed …
//	<-cut.Reached()
//
// # Faults
//
// Cut closes the real socket. What the server had received stays received, the
// client gets what was read before and then ECONNRESET. As with a real network
// the Write of a lost message succeeds, so that the client cannot tell a cut
// Before from a cut After; [Point.FailWrite] is the kinder failure.
//
// Hold stops one direction: the message and those behind it wait, and so does
// the client's closing of the connection. Release delivers all of it, however
// late: a delayed COMMIT may arrive long after its client gave up.
//
// BlackHole stops both directions and leaves the socket open. Reads block until
// their deadline, writes succeed and are kept; Heal delivers them. A client
// that closes the connection meanwhile is not noticed by the server.
//
// A cut After a client's message says that the server has the bytes, not that
// it has worked on them: it does so at its own pace while the client already
// has its error. Where a test needs "the server has done it, the client does
// not know", it cuts Before the answer: Point{Side: Server, Tag: "COMMIT"}.
//
// pgx sends a CancelRequest over a new connection when it gives one up, which
// may reach the very statement that a test has in flight. It goes through the
// same dialer, is counted, and [Faults.RefuseCancel] keeps it from the server.
//
// The error that reaches the caller is pgx's. Where pgx 5.12 waits for the
// answer to a Query or a pgconn.Batch, it turns ECONNRESET into ErrConnClosed,
// of which pgconn.SafeToRetry says true, even if the server has committed.
//
// # Limits
//
// TLS is out of scope: use sslmode=disable. Frames are the unit; a client batch
// ends at Sync, Query or where a Write ends (pgx flushes a batch in one Write).
// A pool pings a connection that was idle for a second: where messages are
// counted, set ShouldPing in the pool's configuration.
package faultconn

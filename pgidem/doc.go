// Package pgidem makes an operation safe to retry, on the PostgreSQL that a team already runs.
//
//	import "github.com/pgidem/pgidem/pgidem"
//
// A caller names the operation by a [Key] and runs it through [DoTx]: the caller's writes and the saved result commit
// in one transaction, concurrent callers of the key wait for it, and every later caller gets the saved result. There is
// no server, no worker, no lease and no clock but the database's. Each fresh call takes three round trips and one
// commit, as the bare transaction with one statement does; two when its last statements are handed over ([Tx.Last]);
// one, by [DoBatch], when all statements are known up front; a replay takes two, or one when the caller says that it
// retries ([TxOpts].Retry), or none from a cache ([Config].Cache).
//
// An operation that calls other services between its transactions goes through [Do], step by step: a retry resumes after the last step that
// is recorded, and a process that has died is replaced at once.
//
// # What is guaranteed
//
//   - G1. At most one execution of a key commits. Rows written through the Tx of DoTx, FinishTx and DoBatch exist exactly once if the
//     result is saved, else not at all; those of StepTx if the step is recorded; those of InTx and MarkTx with the caller's COMMIT. The unique row of the key carries this;
//     advisory locks only make waiting cheap.
//   - G2. Every caller that gets a result gets it from the same saved bytes until the key expires, the first one too;
//     resealing changes how they are encrypted, not what they say.
//   - G3. A result acknowledged to any caller survives a crash of PostgreSQL, and a failover to a synchronous standby
//     unless the wait for that standby was cancelled. Where synchronous_commit is off or local, the transaction that
//     saves the result raises it to on. Behind InTx and MarkTx the caller can lower it again before the COMMIT; then G3 is
//     the caller's to keep.
//   - G4. Two callers whose connections the server holds alive never run a key at once, and nobody waits for a timer
//     after a crash: the key's lock ends with its holder's connection, and an operation of several steps is free when its owner's liveness
//     connection ends. A host that vanishes without a word is noticed within seconds: the liveness connection's where it is direct, the
//     others' where the pool was configured by [PoolConfig].
//   - G5. A recorded step never runs again. Steps are recorded in order, and a run that resumes gets their saved results.
//   - G6. Behind a takeover the old owner commits nothing through pgidem: no step, no result, no release. The context of its function
//     ends when the loss is noticed.
//   - G7. A COMMIT whose answer is lost is settled while PostgreSQL can be reached: within [Config].FinishBound from when
//     the loss is noticed (at most another one), if the server has ended the lost connection's transaction by then. Past
//     it ErrUnknownOutcome says so, and the same key asks again.
//   - G8. Nothing is left after a call: no goroutine, no lock, no open transaction, and no connection beside the pool's; but from the
//     first operation of several steps on, the client's one liveness connection and the three goroutines that keep it, until
//     Close; when that connection is lost or replaced, one more for a moment. [Config].Cache is memory that the caller gave.
//
// # What is not
//
//   - One execution of the function. It may run several times before something is committed; see "Running again".
//   - Effects outside the Tx exactly once: calls to other services, writes through other connections. The call of a [Step] is made at least once,
//     with the same downstream key each time; with Reconcile, again only when the service has said that the first call did not and can no
//     longer take effect; with AtMostOnce, never again.
//   - That two bodies never overlap where a connection is lost: the old one runs on until its context ends. Only one of them commits.
//   - Noticing a silent partition before TCP does.
//   - Anything after an asynchronous failover that lost the tail of the log: the result is lost with the writes, and a
//     cache may go on giving it.
//   - Prepared transactions (PREPARE TRANSACTION) inside the function.
//
// # The life of a key
//
// A key of an operation of one transaction has no row until it is settled, so the only thing a crash can leave is
// nothing:
//
//	            ┌──── error, panic, crash ────┐
//	            ▼                             │
//	(no row) ───┴─ claim: lock, read ──▶ fn runs, lock held ── COMMIT ──▶ succeeded ──┐
//	    ▲                                     │                                       │ TTL
//	    │                                     └─ Permanent: ROLLBACK, COMMIT ▶ failed ┤
//	    └── replaced by the next claim, or reaped ────────────────────── (expired) ◀──┘
//
// The states of the table, and who may change them to what. Operations of one transaction use the rows marked with *.
//
//	from         to                              by
//	(none)       succeeded, failed *             COMMIT of the operation's transaction
//	succeeded *  (none), tombstone               expiry; Forget
//	failed *     (none), tombstone               expiry; Forget
//	tombstone *  (none)                          expiry; Forget
//	(none)       running                         claim of an operation of several steps
//	running      succeeded, failed               finish
//	running      running                         a step is recorded; takeover from a dead owner
//	running      released, parked, undoing       release; unknown foreign outcome; definite failure with undo steps
//	released     running, undoing, parked        the next claim
//	undoing      failed, released, parked        undo finished; release; attempts used up
//	parked       succeeded, failed, released     an operator
//
// The view idempotency_illegal_rows lists every row that contradicts this table; it is empty.
//
// # Operations of several steps
//
// [Do] runs a function that asks for its steps one after another:
//
//	[StepTx]    a transaction of the caller's, which the record of the step is part of
//	[Step]      a call to something outside; its result is recorded behind it
//	[FinishTx]  the last transaction, which also saves the operation's result
//
// What is recorded is never run again: when the function is run anew, in any process, such a step returns what it has returned. The last
// recorded step is the recovery point.
//
//	                 ┌───────────────── takeover from a dead owner ─────────────────┐
//	                 ▼                                                              │
//	(no row) ── claim ──▶ running ── step, step … ── finish ──▶ succeeded, failed   │
//	                 ▲     │   │ └──── crash, liveness connection lost ─────────────┘
//	                 │     │   ├─ error: released ──────── the next call resumes it ─▶ running
//	                 └─────┘   ├─ Permanent, steps with Undo: undoing ──▶ failed
//	  released, nothing done   └─ outcome unknown, attempts used up: parked ── an operator decides
//
// Each claim writes a random token into the row, the fence: every later write tests it and raises where it is another one, in the round
// trip that has COMMIT. The owner is the client, a random number of 64 bits; it is alive for as long as one connection beside the pool,
// the liveness connection, holds an advisory lock of that number. Whoever meets a running operation tries that lock: granted means dead,
// and the operation is taken over at once. There is no lease, so a process that is only slow, or stopped, keeps what it has. When the liveness
// connection breaks, the client draws a new number and tags the rows of what it runs with it, unless somebody was faster. Within 2 s of the
// server's start (not of a restart by itself behind a crashed backend, nor of a promotion) nobody is taken for dead, so that everybody can come back first; nor is anybody by a client within 2 s of
// getting its own lost liveness connection back. Every [Config].PingInterval the connection is
// asked whether it is there, and what could not be released or saved is tried again.
//
//	Do, one round trip      as for DoTx
//	one round trip, commit  INSERT of the row, or the takeover: UPDATE of what was read, then the recorded steps
//	StepTx, one round trip  BEGIN, the key's lock, the fence
//	fn                      the caller's statements
//	one round trip, commit  the step's record and the recovery point
//	Step, fn                the call, with no connection held
//	one round trip, commit  BEGIN, the key's lock, the step's record, COMMIT
//	FinishTx                as StepTx, with the result
//
// With DoOpts.StartsWithTx the claim is part of the first StepTx: a transaction, a call and a transaction take seven round trips with one
// statement each, and three commits.
//
// Errors decide how it goes on: a plain one releases the operation, and a retry resumes it; [Permanent] ends it, behind the Undo of every step that
// has one; [Unknown] keeps a call from being made again until its outcome is known. Undoing is committed before the first step is taken back,
// each step taken back is recorded, and no later run goes forward. What cannot go on by itself is parked; [Lookup] says why, and an operator
// decides: [Settle], [SettleStep], [Client.SettleFailed], [Client.Resume], [Client.Release].
//
// A release of the program that changes an operation's steps meets records of the one before. Steps are compared by name and order:
// FormerNames, TreatAsDone and RemovedSteps declare what has changed; everything else is ErrSteps, before anything runs, and the operation is
// released. What a recorded step returned is decoded into the type that the code has now.
//
// An operation is finished by its callers' retries. One that nobody asks for again stays as it is.
//
// # What a call does
//
//	one round trip   BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE
//	                 the key's advisory lock, tried without waiting; the claim token into the transaction
//	                 the key's row, in a statement of its own: together with the lock it would see the past
//	fn               the caller's statements
//	one round trip   the statements handed over by Tx.Last
//	                 INSERT of the key's row with the outcome; raises if the claim token is gone, or the
//	                 table's name means another table than at the claim
//	                 COMMIT
//
// DoBatch sends all of it in one round trip, and the key's row first:
//
//	one round trip   BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE
//	                 INSERT of the key's row with the result and, in the same statement, the key's advisory lock, tried
//	                 without waiting; raises if the lock is refused, or the key has a row
//	                 the caller's statements
//	                 a guard, which raises if they have ended the transaction
//	                 COMMIT
//
// Where its first statement raises, the row is read, and what it says is done, with the caller's statements as fn.
//
// [InTx] does the same inside a transaction that the caller has, and [MarkTx] marks many keys there at once:
//
//	InTx, one round trip    SAVEPOINT pgidem_operation; the isolation level, and the claim of an operation outside
//	                        the key's advisory lock, tried without waiting; the claim token into the transaction
//	                        the key's row
//	                        where tx is not a pool's or an operation's, but may be a savepoint: one more, for pgx
//	fn                      the caller's statements
//	one round trip          INSERT of the key's row, under a lock_timeout of 10 ms; raises as above
//	                        the outer claim again; RELEASE SAVEPOINT
//	MarkTx, one round trip  SAVEPOINT pgidem_operation; the isolation level; lock_timeout
//	                        DELETE of expired rows, then INSERT of the IDs that have none, each sorted
//	                        a check, which raises if an ID has no row, or one that is no mark
//	                        lock_timeout as it was; RELEASE SAVEPOINT
//
// They never wait for an advisory lock or in memory: their caller may hold what the other needs. Anything but
// success ends with ROLLBACK TO SAVEPOINT, which gives the lock and the settings back too, and the caller's transaction
// goes on. G1, G2 and G3 hold from the caller's COMMIT on: acknowledge nothing before.
//
// What the row says, in this order:
//
//	absent or expired, lock granted       fn runs
//	absent or expired, lock refused       wait for the lock within the wait bound, then decide again
//	another kind or fingerprint           ErrKeyReused
//	succeeded, failed                     replay
//	tombstone                             ErrExpired
//	parked                                ErrParked
//	running or undoing, its owner alive   wait for it within the wait bound, then ErrInProgress
//	running or undoing, its owner dead,   take it over; parked where its attempts are used up (ErrParked)
//	  or released
//
// Callers in one process wait for each other in memory, and only the first goes to the database; the others get what the
// row says for their own request, not for the first one's. At most [Config].WaitingConns connections of a process wait
// for locks that others hold, each no longer than lock_timeout at a time.
//
// # Running again
//
// fn runs again, with a new transaction, when the server asks for it (serialization failure, deadlock; up to
// [Config].Reruns times), when the key's row was saved by somebody else who then forgot it, and when a lost COMMIT is
// found to have failed (up to three times in all). It never runs again after a COMMIT of the same call that succeeded,
// unless somebody else forgets the key before the lost answer is settled.
//
// # What happens on each failure
//
//	key malformed                         ErrInvalidKey, no SQL is sent
//	fn returns an error                   rolled back; the error as it is; the key is free
//	fn returns Permanent(err)             rolled back; saved in a second transaction, unless a success won meanwhile: that
//	                                      one is replayed; *Failure to this and every later caller
//	fn panics or calls runtime.Goexit     rolled back; the panic goes on; the key is free; a waiting caller takes over
//	fn ends its transaction by SQL        ErrTxEnded; what it committed stays, no result is saved
//	fn swallows an SQL error              ErrTxAborted; rolled back
//	fn leaves search_path or the role     ErrTxAborted; rolled back
//	  so that the table is another one
//	fn's Tx is used too late              ErrTxEnded to that use; nothing is sent
//	fn's Tx is used by two goroutines     ErrTxConcurrent to the second; if fn returned meanwhile, fn's context is
//	                                      cancelled and everything is rolled back
//	result cannot be encoded, sealed,     ErrResult; rolled back
//	  read again, or is too large
//	saved result cannot be opened or      ErrResult; the saved bytes stay, and the operation is not run again
//	  decoded
//	context ends before the claim         its cause; nothing ran
//	context ends in fn                    fn sees it; its error rolls back. What fn returned without error is saved
//	context ends after fn                 the result is saved and returned
//	caller's process dies                 its connection ends, the server rolls back; the key is free at once
//	connection lost before fn             a new claim, three times; then ErrUnavailable
//	connection lost in fn                 fn gets the error; the server rolls back; the key is free. If fn returns success
//	                                      over it, or idle_in_transaction_session_timeout struck: ErrTxAborted
//	connection lost at COMMIT             settled, see below
//	serialization failure, deadlock       fn runs again, Config.Reruns times; then the error
//	statement_timeout, lock_timeout in fn fn gets the error; rolled back
//	wait bound used up                    ErrInProgress with RetryAfter; nothing was committed. Where the key has a row that
//	                                      is not committed yet but no holder (a mark), fn runs before that is noticed
//	no COMMIT succeeds, four times        ErrUnavailable; nothing was committed
//	somebody else saved the key first     replay of that result (only possible without locks)
//	standby, read-only server             ErrReadOnly; nothing ran
//	table missing, wrong release, rights  ErrSchema; nothing ran
//	locks that do not exclude             ErrLocks; nothing ran
//	pooler or query mode that cannot work ErrPooler; nothing ran
//	client closed                         ErrClosed; nothing ran
//
// In operations of several steps "rolled back" means the step's transaction, "the key is free" that the operation is released at its
// recovery point, and besides:
//
//	error of a step                       no further step of this run is admitted; the error, also where the function hides it
//	call of a Step interrupted by a crash it is made again, with the same key; with Reconcile that is asked first, when the call's
//	                                      deadline is over; with AtMostOnce the operation is parked
//	call returns Unknown                  parked; with Reconcile released, and the next attempt asks
//	result of a Step cannot be encoded    parked: the call has been made
//	result of a Step cannot be written    ErrUnknownOutcome; it is kept in memory, and recorded with the release as soon as that can be
//	liveness connection lost              tagged anew and it goes on; if somebody was faster, the function's context ends with ErrTakenOver,
//	                                      and the call waits for the other's result
//	claimed too often                     ErrParked
//	undo fails                            ErrUndoing; released, and the next call goes on undoing
//	steps do not fit the record           ErrSteps; released
//	Op used wrongly                       ErrOpMisuse; released
//	Close while it runs                   it may end; when Close does not wait any longer, its context ends with ErrClosed, it is released,
//	                                      and the liveness connection is closed last
//
// In InTx and MarkTx "rolled back" means to the savepoint, and besides:
//
//	the caller's transaction is over,     ErrTxEnded, ErrTxAborted; ErrTxConcurrent where rows are open; nothing is sent
//	  aborted or in use
//	it is REPEATABLE READ, SERIALIZABLE   ErrIsolation; nothing ran
//	it is read-only                       ErrReadOnly; nothing ran
//	InTx: somebody else runs the key      ErrInProgress at once; 10 ms after fn, where only an uncommitted row tells
//	MarkTx: an ID's mark is uncommitted   waits for its transaction within WaitBound, each time; then ErrInProgress about the
//	                                      scope
//	MarkTx: an ID has an operation        ErrKeyReused about the ID; nothing is marked
//	deadlock                              MarkTx tries again, three times in all; then, and in InTx, ErrDeadlock: the caller must
//	                                      run the whole transaction again
//	InTx: fn leaves rows open             nothing can be rolled back: the connection is closed, so that the caller
//	                                      cannot commit; ErrTxAborted, or fn's error
//	InTx: fn ends the transaction, the    ErrTxEnded, or fn's transient error; where the transaction goes on, it is aborted
//	  savepoint or one around it
//	InTx: a Permanent cannot be saved     the error that tells why, with the failure's text; it is not a *Failure
//	InTx: fn sets a role without rights   ErrTxAborted; ErrSchema if it is the caller's own
//	an error at the connection's first    ErrSchema, ErrUnavailable; the caller's transaction is aborted, because PREPARE
//	  call with prepared statements       comes before SAVEPOINT
//	statement_timeout while a row is      ErrInProgress, as with lock_timeout
//	  waited for
//	context ends while a statement of     its cause; pgx closes the connection, and the server rolls the caller's transaction
//	  the library runs or waits           back
//	connection lost                       ErrUnavailable; the server rolls the caller's transaction back
//
// # A COMMIT without an answer
//
// Every end of COMMIT is in doubt but a success and an error by which the server says that it rolled back. The library
// then takes a new connection, waits for the key's lock (the old transaction held it to its end, a wait for a
// synchronous standby included, and is left alone), reads the row in a new statement, and decides again. What it finds
// is acknowledged only behind a barrier, a committed write to the row, so that it is as durable as a COMMIT that was
// answered. What lost its answer, and what is done where the row is then
//
//	              present, ours        present, somebody else's      absent
//
//	claim         it writes nothing: it is sent again, three times
//	DoTx          its result           the table above: a replay,    final, because the lock was answered before fn
//	                                   ErrKeyReused …                ran: fn runs again; where the caller's context
//	                                                                 has ended, its cause: nothing was committed
//	its failure   the Failure, with    the same: also a success      final: it is saved again, and fn does not run
//	              its cause            that came first
//	barrier       another barrier      the same                      somebody forgot the key since: as for DoTx
//	DoBatch       its result           the same                      not final, because COMMIT went out with all the
//	                                                                 rest and may still arrive: run again, of which the
//	                                                                 row lets one through; ErrUnknownOutcome where
//	                                                                 that fails. Its row keeps the lost batch out
//	                                                                 while it lives: Forget would let it in
//	Forget        ErrUnknownOutcome in each case: call it again; ErrNotFound then says that it was done
//	Do, claim     the operation is    the table above            it is claimed again
//	              claimed anew
//	StepTx,       recorded            ErrTakenOver               final, because the lock was answered before fn ran: the claim
//	  FinishTx                                                   token is changed, and fn runs again
//	Step, intent, recorded            ErrTakenOver               the same is written again, from memory: the call is not made
//	  finish, park,                                              again
//	  undoing
//	release       done                it was done, or somebody   it is written again, by the janitor if need be
//	                                  has it by now
//	InTx, MarkTx  the caller's own COMMIT, of which the library does not hear: calling again with the same key tells
//
// A function runs three times more at most. Where the key cannot be read within FinishBound, the lock is still held
// then, or no barrier succeeds, the error is ErrUnknownOutcome; it has the key, and the same key asks again.
//
// # Cache
//
// With [Config].Cache, DoTx and DoBatch ask it first, and the database only where it has no answer: a replay then costs no
// round trip, also inside another operation, with TxOpts.Retry, and while PostgreSQL cannot be reached. Kind and
// fingerprint are compared as with the row; an entry that is damaged, of another key, or cannot be decoded is a miss. [Lookup]
// always asks the database. [NewMemoryCache] is a cache of this process; [Cache] is what a shared one implements.
//
// Only finished outcomes are put, when they are acknowledged: after their COMMIT, as a replay, or behind the barrier of a
// lost COMMIT. The database's clock decides how long an entry lives: what its row still had to live, less all the time since
// the call began, a second and a thousandth. So it ends before the row, if the database's clock is not set forward meanwhile.
//
// A row that is taken away before it expires is another matter:
//
//	Forget by this client          at once: when it has returned, no later call gets the old answer
//	Forget by another process      that answers from a shared cache: as that does (see [Cache].Delete);
//	                               from its own: not noticed before the entry ends. Bound it by Config.CacheMaxAge, forget
//	                               there too, or have a client without a cache for keys that are forgotten
//	DELETE, TRUNCATE, a restored   not noticed before the entry ends
//	  backup, a lossy failover
//
// # Encryption
//
// What is saved goes through two hooks. [Config].Codec turns results into bytes, JSON by default. [Config].Sealer encrypts
// these bytes, and failures, which do not go through the codec; package pgidemcrypt has one for which destroying a
// scope's key destroys its answers, in backups too. Scope, ID, kind, state, attempt, times, the answer's length, what the
// sealer leaves readable of it (pgidemcrypt: the ID of the scope key) and the unsalted fingerprint stay readable. A sealer can
// authenticate which key the bytes belong to, and which [Part] of what is saved they are; state, times and fingerprint are
// not authenticated.
// [Client.Reseal] seals what is saved with a new key. With [Rehydrate] only a reference is saved, and the answer is
// rebuilt from it at each call; G2 then promises the same reference, not the same answer.
//
// # Words
//
//	key          scope and ID
//	operation    everything done once for a key; its kind is tx, steps or mark
//	fingerprint  digest of the request
//	claim        how a caller becomes the one that may run the key; its token is 128 random bits
//	attempt      how many times the key was claimed
//	owner        the client that holds the claim of an operation of several steps
//	step         a named part of an operation whose result is recorded
//	takeover     claiming a running operation whose owner is dead
//	replay       answering from the saved result
//	parked       cannot go on without an operator's decision
//	seal         to encrypt a saved answer, for its key; reseal: anew, with another secret
//	reaper       removes expired keys
//
// # Poolers
//
// Only transaction-level locks and settings are used, so PgBouncer in transaction mode works. The core's tests run through
// version 1.18 and 1.24. What works depends on its settings and on pgx's query mode (default_query_exec_mode in the
// connection string); [Client.Probe], and a client's first DoTx, Do, DoBatch or Reseal, refuse the rest before anything runs; InTx, MarkTx,
// Lookup and Forget do not ask, so call Probe at start-up where a client has nothing else:
//
//	pool_mode    query mode                     what happens
//	transaction  cache_describe, exec,          works
//	             simple_protocol
//	transaction  cache_statement, pgx's own     works where max_prepared_statements is above 0 (by default in 1.24); else,
//	             default                        and before 1.21, ErrPooler: statements are missing in other backends
//	transaction  describe_exec                  ErrPooler: it needs the same backend for two messages
//	session      all                            work; warned: every connection keeps a server connection
//	statement    all                            ErrPooler: BEGIN is refused
//	all          those that work                warned: a vanished host is noticed by the pooler, not by the server
//
// The liveness connection of operations of several steps is a transaction that stays open, so that a pooler keeps a server connection for it, one
// for each client. Give it a way past the pooler ([Config].LivenessDSN): without, as many clients as the pooler has server connections stand
// still until their contexts end.
//
// A start-up parameter that the pooler does not accept, such as those of [PoolConfig], is ErrPooler too. One that it
// swallows (ignore_startup_parameters) is a warning, also where it is within options. A pooler that cannot serve now (the
// server is down, all its connections are in use) is ErrUnavailable. Migrations want a direct connection.
package pgidem

-- KeySaveFirst claims and saves in one statement, the first of a batch that commits in its own round trip. Uniqueness
-- does not depend on a snapshot, so the lock may be asked for in the same statement; claim is NULL where somebody else
-- holds it, and the statement raises, as it does where the key has a row. lock_timeout is as in KeySave.
-- name: KeySaveFirst :one
INSERT INTO idempotency_keys
    (scope, id, kind, state, claim, attempt, fingerprint_algorithm, fingerprint, result, finished_at, expires_at)
VALUES
    (@scope::text, @id::text, 'tx', 'succeeded',
     CASE WHEN pg_try_advisory_xact_lock(@lock::bigint)
          THEN CAST(set_config('pgidem.claim', @claim::text, true) AS uuid) END,
     1, @fingerprint_algorithm::smallint, sqlc.narg(fingerprint)::bytea, @result::bytea,
     clock_timestamp(),
     CASE WHEN set_config('pgidem.lock_timeout', current_setting('lock_timeout'), true) IS NOT NULL
          THEN CASE WHEN set_config('lock_timeout', @lock_timeout::text, true) IS NOT NULL
                    THEN clock_timestamp() + @ttl::interval END END)
RETURNING set_config('lock_timeout', current_setting('pgidem.lock_timeout'), true)::text AS restored;

-- KeyGuard is the last statement of such a batch. It divides by zero where the caller's statements have ended the
-- transaction, and raises synchronous_commit where nothing can lower it any more.
-- name: KeyGuard :one
SELECT 1 / CASE WHEN current_setting('pgidem.claim', true) = @claim::text THEN 1 ELSE 0 END AS guard,
       coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                     THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

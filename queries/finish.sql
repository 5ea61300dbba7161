-- KeyDropExpired makes room for a new life of an expired key; its steps go with it.
-- name: KeyDropExpired :exec
DELETE FROM idempotency_keys
WHERE scope = @scope::text AND id = @id::text
  AND state IN ('succeeded', 'failed', 'tombstone')
  AND expires_at <= clock_timestamp();

-- KeySave saves the outcome. COMMIT travels in the same round trip, so a row count would come too late: where the
-- claim token is no longer in the transaction, claim is NULL and the statement raises; where the name now means
-- another table than at the claim (search_path, role, a temporary table), attempt is.
-- A mark of the key that is not committed yet is waited for within lock_timeout, which is set before the row is inserted.
-- RETURNING gives the caller's back, for deferred constraints, and is where synchronous_commit is raised: nothing runs
-- after it but COMMIT.
-- name: KeySave :one
INSERT INTO idempotency_keys
    (scope, id, kind, state, claim, attempt, fingerprint_algorithm, fingerprint, result, error, finished_at, expires_at)
VALUES
    (@scope::text, @id::text, 'tx', @state::text,
     CASE WHEN current_setting('pgidem.claim', true) = @claim::text THEN CAST(@claim::text AS uuid) END,
     CASE WHEN to_regclass('idempotency_keys')::oid = CAST(@keys_table::bigint AS oid) THEN 1 END,
     @fingerprint_algorithm::smallint, sqlc.narg(fingerprint)::bytea, sqlc.narg(result)::bytea, sqlc.narg(error)::bytea,
     clock_timestamp(),
     CASE WHEN set_config('pgidem.lock_timeout', current_setting('lock_timeout'), true) IS NOT NULL
          THEN CASE WHEN set_config('lock_timeout', @lock_timeout::text, true) IS NOT NULL
                    THEN clock_timestamp() + @ttl::interval END END)
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised,
          set_config('lock_timeout', current_setting('pgidem.lock_timeout'), true)::text AS restored;

-- KeyBarrier is the committed write behind which an outcome of unknown durability may be acknowledged:
-- its own COMMIT waits for everything that was written before it.
-- name: KeyBarrier :one
UPDATE idempotency_keys
SET updated_at = clock_timestamp()
WHERE scope = @scope::text AND id = @id::text
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

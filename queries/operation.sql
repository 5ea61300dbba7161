-- OperationRead reads what a caller must know of an unfinished operation before it may take it over: whether its owner
-- lives, that is, still holds its instance lock. A server that has just started lets owners come back first.
-- name: OperationRead :one
SELECT state::text AS state, claim, owner, attempt, attempts_forgiven, coalesce(recovery_point, '')::text AS recovery_point,
       life, error, parked,
       coalesce(NOT pg_try_advisory_xact_lock_shared(
           (owner >> 32)::integer,
           ((owner & 4294967295) - CASE WHEN owner & 2147483648 = 0 THEN 0 ELSE 4294967296 END)::integer), false)::boolean AS owner_alive,
       (clock_timestamp() - pg_postmaster_start_time() < interval '2 seconds')::boolean AS server_young,
       coalesce((SELECT date_part('epoch', s.deadline) - date_part('epoch', clock_timestamp())
                 FROM idempotency_steps AS s
                 WHERE s.scope = @scope::text AND s.id = @id::text AND s.recorded_at IS NULL
                 LIMIT 1), 0)::float8 AS call_seconds_left
FROM idempotency_keys
WHERE scope = @scope::text AND id = @id::text;

-- OperationStart writes the row of a new operation. The owner is NULL, and the table's CHECK raises, where the instance lock
-- is not held by anybody else: then this owner would look dead to everybody.
-- name: OperationStart :one
INSERT INTO idempotency_keys
    (scope, id, kind, state, claim, attempt, owner, life, fingerprint_algorithm, fingerprint)
VALUES
    (@scope::text, @id::text, 'steps', 'running',
     CASE WHEN current_setting('pgidem.claim', true) = @claim::text THEN CAST(@claim::text AS uuid) END,
     CASE WHEN to_regclass('idempotency_keys')::oid = CAST(@keys_table::bigint AS oid) THEN 1 END,
     CASE WHEN NOT pg_try_advisory_xact_lock_shared(@owner_high::integer, @owner_low::integer) THEN @owner::bigint END,
     CAST(@life::text AS uuid), @fingerprint_algorithm::smallint, sqlc.narg(fingerprint)::bytea)
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- OperationTake takes over what was read, and nothing else: a live owner may have finished, re-tagged or released it since. It
-- waits for a write in flight, so the steps are read behind it. It raises as OperationStart does; no row means "decide again".
-- name: OperationTake :one
UPDATE idempotency_keys
SET state = CASE WHEN error IS NULL THEN 'running' ELSE 'undoing' END,
    claim = CAST(@claim::text AS uuid),
    attempt = attempt + 1,
    owner = CASE WHEN NOT pg_try_advisory_xact_lock_shared(@owner_high::integer, @owner_low::integer) THEN @owner::bigint END,
    updated_at = clock_timestamp()
WHERE scope = @scope::text AND id = @id::text AND kind = 'steps'
  AND state = @read_state::text AND claim = CAST(@read_claim::text AS uuid)
  AND owner IS NOT DISTINCT FROM sqlc.narg(read_owner)::bigint
RETURNING attempt,
          coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- OperationSteps reads the steps, in the order in which they were recorded; an intent without a result comes last.
-- name: OperationSteps :many
SELECT name, ordinal, claim, result, (recorded_at IS NOT NULL)::boolean AS recorded, (deadline IS NOT NULL)::boolean AS reconcilable,
       coalesce(date_part('epoch', deadline) - date_part('epoch', clock_timestamp()), 0)::float8 AS seconds_left
FROM idempotency_steps
WHERE scope = @scope::text AND id = @id::text
ORDER BY ordinal;

-- OperationFence locks the row of an operation for a step's transaction, and divides by zero where the claim is lost.
-- name: OperationFence :one
WITH fence AS (
    UPDATE idempotency_keys
    SET updated_at = clock_timestamp()
    WHERE scope = @scope::text AND id = @id::text
      AND state = @state::text AND claim = CAST(@claim::text AS uuid)
    RETURNING 1)
SELECT 1 / count(*) AS fenced FROM fence;

-- OperationRotate replaces the claim token before a step's transaction runs again whose COMMIT was not answered: what is
-- left of the first one then fails its own fence.
-- name: OperationRotate :one
WITH fence AS (
    UPDATE idempotency_keys
    SET claim = CAST(@claim::text AS uuid), updated_at = clock_timestamp()
    WHERE scope = @scope::text AND id = @id::text
      AND state IN ('running', 'undoing') AND claim = CAST(@old_claim::text AS uuid)
    RETURNING 1)
SELECT 1 / count(*) AS fenced,
       coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                     THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised
FROM fence;

-- OperationFinish saves the outcome of an operation that is running (or undoing, and then fails with the error that it has).
-- name: OperationFinish :one
WITH fence AS (
    UPDATE idempotency_keys
    SET state = @finished::text, result = sqlc.narg(result)::bytea,
        error = coalesce(sqlc.narg(error)::bytea, error), owner = NULL, updated_at = clock_timestamp(),
        finished_at = clock_timestamp(), expires_at = clock_timestamp() + @ttl::interval
    WHERE scope = @scope::text AND id = @id::text
      AND state = @state::text AND claim = CAST(@claim::text AS uuid)
    RETURNING 1)
SELECT 1 / count(*) AS fenced,
       coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                     THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised
FROM fence;

-- OperationUndo turns a running operation into one that is undone, with the failure that it will end with: from now on no
-- run of it goes forward.
-- name: OperationUndo :one
WITH fence AS (
    UPDATE idempotency_keys
    SET state = 'undoing', error = @error::bytea, updated_at = clock_timestamp()
    WHERE scope = @scope::text AND id = @id::text
      AND state = 'running' AND claim = CAST(@claim::text AS uuid)
    RETURNING 1)
SELECT 1 / count(*) AS fenced,
       coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                     THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised
FROM fence;

-- OperationRelease gives the operation up at its last recovery point. forgiven is 1 where the run was no attempt: its code did not
-- fit the record.
-- name: OperationRelease :one
WITH fence AS (
    UPDATE idempotency_keys
    SET state = 'released', owner = NULL, updated_at = clock_timestamp(),
        attempts_forgiven = attempts_forgiven + @forgiven::integer
    WHERE scope = @scope::text AND id = @id::text
      AND state IN ('running', 'undoing') AND claim = CAST(@claim::text AS uuid)
    RETURNING 1)
SELECT 1 / count(*) AS fenced FROM fence;

-- OperationDrop gives up an operation in which nothing has happened: nothing of it is kept.
-- name: OperationDrop :one
WITH fence AS (
    DELETE FROM idempotency_keys AS k
    WHERE k.scope = @scope::text AND k.id = @id::text
      AND k.state = 'running' AND k.claim = CAST(@claim::text AS uuid)
      AND NOT EXISTS (SELECT FROM idempotency_steps AS s WHERE s.scope = k.scope AND s.id = k.id)
    RETURNING 1)
SELECT 1 / count(*) AS fenced FROM fence;

-- OperationPark stops an operation until an operator has decided.
-- name: OperationPark :one
WITH fence AS (
    UPDATE idempotency_keys
    SET state = 'parked', owner = NULL, parked = @parked::bytea, updated_at = clock_timestamp()
    WHERE scope = @scope::text AND id = @id::text
      AND state IN ('running', 'undoing') AND claim = CAST(@claim::text AS uuid)
    RETURNING 1)
SELECT 1 / count(*) AS fenced,
       coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                     THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised
FROM fence;

-- OperationParkRead parks an operation that nobody runs and whose attempts are used up, as it was read.
-- name: OperationParkRead :one
UPDATE idempotency_keys
SET state = 'parked', owner = NULL, parked = @parked::bytea, updated_at = clock_timestamp()
WHERE scope = @scope::text AND id = @id::text AND kind = 'steps'
  AND state = @read_state::text AND claim = CAST(@read_claim::text AS uuid)
  AND owner IS NOT DISTINCT FROM sqlc.narg(read_owner)::bigint
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- OperationPoll asks in one round trip whether an operation is still in the same hands, or may get back into them.
-- name: OperationPoll :one
SELECT (state IN ('running', 'undoing') AND claim = CAST(@read_claim::text AS uuid)
        AND (NOT pg_try_advisory_xact_lock_shared(
               (owner >> 32)::integer,
               ((owner & 4294967295) - CASE WHEN owner & 2147483648 = 0 THEN 0 ELSE 4294967296 END)::integer)
             OR @owners_return::boolean
             OR clock_timestamp() - pg_postmaster_start_time() < interval '2 seconds'))::boolean AS same
FROM idempotency_keys
WHERE scope = @scope::text AND id = @id::text;

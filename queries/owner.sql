-- OwnerOf reads in whose hands an operation is, and what its result is.
-- name: OwnerOf :one
SELECT state::text AS state, claim, owner, result, coalesce(expires_at <= clock_timestamp(), false)::boolean AS expired
FROM idempotency_keys
WHERE scope = @scope::text AND id = @id::text;

-- OwnerRetag gives an operation to its owner's new instance id. It does not wait for a step's transaction, and raises where the
-- new instance lock is not held.
-- name: OwnerRetag :one
UPDATE idempotency_keys AS k
SET owner = CASE WHEN NOT pg_try_advisory_xact_lock_shared(@owner_high::integer, @owner_low::integer) THEN @owner::bigint END
FROM (SELECT scope, id
      FROM idempotency_keys
      WHERE scope = @scope::text AND id = @id::text
        AND state IN ('running', 'undoing') AND claim = CAST(@claim::text AS uuid)
      FOR UPDATE SKIP LOCKED) AS free
WHERE k.scope = free.scope AND k.id = free.id
RETURNING k.owner;

-- OwnerRelease releases a row that nobody works on. It does not wait: what holds the row is a write that may settle it.
-- name: OwnerRelease :exec
UPDATE idempotency_keys AS k
SET state = 'released', owner = NULL, updated_at = clock_timestamp()
FROM (SELECT scope, id
      FROM idempotency_keys
      WHERE scope = @scope::text AND id = @id::text
        AND state IN ('running', 'undoing') AND claim = CAST(@claim::text AS uuid)
      FOR UPDATE SKIP LOCKED) AS free
WHERE k.scope = free.scope AND k.id = free.id;

-- OwnerRows lists what an instance has in its hands, by the rows.
-- name: OwnerRows :many
SELECT scope, id, claim, state::text AS state
FROM idempotency_keys
WHERE owner = @owner::bigint
ORDER BY updated_at
LIMIT 1000;

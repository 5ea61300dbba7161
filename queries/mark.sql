-- MarkDropExpired frees the IDs whose row has expired, whatever its kind; steps go with their key. The rows are locked in
-- the order in which MarkSave inserts, so that two batches cannot wait for each other, and are tested again under the
-- lock. At another isolation level it does nothing: the caller of the batch reads the level and refuses.
-- name: MarkDropExpired :exec
DELETE FROM idempotency_keys AS k
USING (SELECT e.scope, e.id
       FROM idempotency_keys AS e
       WHERE e.scope = @scope::text AND e.id = ANY(@ids::text[])
         AND e.state IN ('succeeded', 'failed', 'tombstone')
         AND e.expires_at <= clock_timestamp()
         AND current_setting('transaction_isolation') NOT IN ('repeatable read', 'serializable')
       ORDER BY e.id
       FOR UPDATE) AS expired
WHERE k.scope = expired.scope AND k.id = expired.id;

-- MarkSave marks the IDs that have no row, sorted and each once, and returns them. It waits for other transactions'
-- marks that are not committed yet, at most lock_timeout.
-- name: MarkSave :many
INSERT INTO idempotency_keys
    (scope, id, kind, state, claim, attempt, created_at, updated_at, finished_at, expires_at)
SELECT @scope::text, batch.id, 'mark', 'succeeded', CAST(@claim::text AS uuid), 1,
       clock.now, clock.now, clock.now, clock.now + @ttl::interval
FROM (SELECT DISTINCT unnest(@ids::text[]) COLLATE "C" AS id) AS batch
CROSS JOIN (SELECT clock_timestamp() AS now) AS clock
WHERE current_setting('transaction_isolation') NOT IN ('repeatable read', 'serializable')
ORDER BY batch.id
ON CONFLICT DO NOTHING
RETURNING id;

-- MarkCheck divides by zero where MarkSave has passed over one of the IDs that it must not: its row is of another kind,
-- has expired since, or is gone, because it was deleted while MarkSave waited for another ID. It is a statement of its own
-- because it has to see what was committed meanwhile.
-- name: MarkCheck :one
SELECT 1 / CASE WHEN EXISTS (
           SELECT FROM (SELECT unnest(@ids::text[]) COLLATE "C" AS id) AS batch
           LEFT JOIN idempotency_keys AS k ON k.scope = @scope::text AND k.id = batch.id
           WHERE k.id IS NULL
              OR k.claim <> CAST(@claim::text AS uuid) AND (k.kind <> 'mark' OR k.expires_at <= clock_timestamp()))
       THEN 0 ELSE 1 END AS guard;

-- MarkOther names the first ID whose row is of another kind and has not expired.
-- name: MarkOther :one
SELECT id, kind::text AS kind
FROM idempotency_keys
WHERE scope = @scope::text AND id = ANY(@ids::text[]) AND kind <> 'mark'
  AND coalesce(expires_at > clock_timestamp(), true)
ORDER BY id
LIMIT 1;

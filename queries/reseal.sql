-- ResealRead reads a scope's next saved answers in the order of their IDs. Expired ones are left alone: no call is
-- answered by them any more, and Lookup, which still shows them, cannot open them when their secret is gone.
-- name: ResealRead :many
SELECT id, coalesce(result, error)::bytea AS sealed, (result IS NULL)::boolean AS failed
FROM idempotency_keys
WHERE scope = @scope::text AND id > @after::text
  AND state IN ('succeeded', 'failed') AND expires_at > clock_timestamp()
  AND coalesce(result, error) IS NOT NULL
ORDER BY id
LIMIT @batch::integer;

-- ResealWrite replaces an answer that is still the one that was read; a forgotten key, a new life, or another pass's
-- work is left alone. It never waits: whoever holds the row is changing it. The old scope key is destroyed next, so the
-- new answer must not be lost in a crash.
-- name: ResealWrite :one
UPDATE idempotency_keys AS k
SET result = CASE WHEN k.result IS NOT NULL THEN @resealed::bytea END,
    error = CASE WHEN k.result IS NULL THEN @resealed::bytea END,
    updated_at = clock_timestamp()
FROM (SELECT scope, id
      FROM idempotency_keys
      WHERE scope = @scope::text AND id = @id::text
        AND state IN ('succeeded', 'failed') AND coalesce(result, error) = @sealed::bytea
      FOR UPDATE SKIP LOCKED) AS free
WHERE k.scope = free.scope AND k.id = free.id
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- ResealBarrier is a committed write behind which a pass may vouch for answers that it found resealed: whoever
-- resealed them may not know that it was committed, or for whom. Its own COMMIT waits for everything that was written
-- before it, whatever the row, so it takes one that nobody holds.
-- name: ResealBarrier :one
UPDATE idempotency_keys AS k
SET updated_at = clock_timestamp()
FROM (SELECT scope, id
      FROM idempotency_keys
      WHERE scope = @scope::text AND state IN ('succeeded', 'failed')
      ORDER BY id DESC
      LIMIT 1
      FOR UPDATE SKIP LOCKED) AS free
WHERE k.scope = free.scope AND k.id = free.id
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- KeyForget deletes a finished key; an unfinished one stays. What was forgotten must not come back after a crash.
-- name: KeyForget :one
DELETE FROM idempotency_keys
WHERE scope = @scope::text AND id = @id::text
  AND state IN ('succeeded', 'failed', 'tombstone')
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- KeyLookup reads everything that a caller may know about a key, without a lock.
-- name: KeyLookup :one
SELECT kind::text AS kind, state::text AS state, claim, attempt, recovery_point, result, error, parked,
       created_at, updated_at, finished_at, expires_at,
       coalesce(expires_at <= clock_timestamp(), false)::boolean AS expired
FROM idempotency_keys
WHERE scope = @scope::text AND id = @id::text;

-- KeyTryLock asks for the key's lock without waiting, and leaves the claim token in the transaction:
-- KeySave raises when it is gone, because then the caller's function has ended the transaction by hand.
-- name: KeyTryLock :one
SELECT pg_try_advisory_xact_lock(@lock::bigint) AS granted,
       set_config('pgidem.claim', @claim::text, true) AS claim,
       coalesce(to_regclass('idempotency_keys')::oid, 0)::bigint AS keys_table;

-- KeyLock waits for the key's lock, at most lock_timeout, and restores the caller's own lock_timeout behind it.
-- name: KeyLock :one
SELECT set_config('pgidem.lock_timeout', current_setting('lock_timeout'), true) AS saved,
       set_config('lock_timeout', @lock_timeout::text, true) AS bound,
       pg_advisory_xact_lock(@lock::bigint)::text AS locked,
       set_config('lock_timeout', current_setting('pgidem.lock_timeout'), true) AS restored,
       set_config('pgidem.claim', @claim::text, true) AS claim,
       coalesce(to_regclass('idempotency_keys')::oid, 0)::bigint AS keys_table;

-- KeyRead reads the key in a statement of its own: one that also takes the lock would see the past.
-- name: KeyRead :one
SELECT kind::text AS kind, state::text AS state, claim, attempt,
       fingerprint_algorithm, fingerprint, result, error,
       coalesce(expires_at <= clock_timestamp(), false)::boolean AS expired,
       coalesce(date_part('epoch', expires_at) - date_part('epoch', clock_timestamp()), 0)::float8 AS seconds_left
FROM idempotency_keys
WHERE scope = @scope::text AND id = @id::text;

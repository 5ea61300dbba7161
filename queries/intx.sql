-- TxState reads what a transaction that belongs to the caller must be like, and whose claim it carries already:
-- an operation may run inside another one's transaction, whose own fence tests the same setting. writable tells rights
-- that the caller never had from those that a function has given up.
-- name: TxState :one
SELECT current_setting('transaction_isolation')::text AS isolation,
       (current_setting('transaction_read_only') = 'on')::boolean AS read_only,
       coalesce(current_setting('pgidem.claim', true), '')::text AS claim,
       coalesce(has_table_privilege(to_regclass('idempotency_keys')::oid, 'INSERT')
                AND has_table_privilege(to_regclass('idempotency_keys')::oid, 'DELETE'), false)::boolean AS writable;

-- TxBound bounds the waits of the library's own statements by lock_timeout and keeps the caller's.
-- name: TxBound :one
SELECT set_config('pgidem.lock_timeout', current_setting('lock_timeout'), true) AS saved,
       set_config('lock_timeout', @lock_timeout::text, true) AS bound;

-- TxUnbound gives the caller's lock_timeout back. synchronous_commit is raised here for marks, which have no other
-- statement behind their INSERT; COMMIT is the caller's.
-- name: TxUnbound :one
SELECT set_config('lock_timeout', current_setting('pgidem.lock_timeout'), true) AS restored,
       coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                     THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- TxClaim gives the claim back to the operation in whose transaction this one ran.
-- name: TxClaim :one
SELECT set_config('pgidem.claim', @claim::text, true) AS claim;

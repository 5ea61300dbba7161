-- ProbeServer reads what the library needs to know of a server before it trusts it with a claim.
-- name: ProbeServer :one
SELECT current_setting('server_version')::text AS version,
       pg_backend_pid()::integer AS backend,
       pg_is_in_recovery() AS in_recovery,
       current_setting('default_transaction_read_only') = 'on' AS read_only,
       coalesce(to_regclass('idempotency_keys')::oid, 0)::bigint AS keys_table,
       coalesce(has_table_privilege(to_regclass('idempotency_keys'), 'SELECT')
            AND has_table_privilege(to_regclass('idempotency_keys'), 'INSERT')
            AND has_table_privilege(to_regclass('idempotency_keys'), 'UPDATE')
            AND has_table_privilege(to_regclass('idempotency_keys'), 'DELETE'), false)::boolean AS granted,
       coalesce(obj_description(to_regclass('idempotency_keys'), 'pg_class'), '')::text AS schema_comment;

-- ProbeLock takes a lock that nobody else may get while this transaction is open, and says which backend did it.
-- name: ProbeLock :one
SELECT pg_try_advisory_xact_lock(@lock::bigint) AS granted, pg_backend_pid()::integer AS backend;

-- ProbePrepared looks for a prepared statement under the name that the client gave it. A pooler that tracks prepared
-- statements has given it another one.
-- name: ProbePrepared :one
SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE name = @name::text) AS kept;

-- ProbeParameters names the settings that were asked for (a JSON object) and are not what the session has. A setting that
-- was passed on may be spelled otherwise than it was asked for, in another unit; its source is then the client.
-- name: ProbeParameters :one
SELECT coalesce(string_agg(a.key, ', ' ORDER BY a.key), '')::text AS lost
FROM jsonb_each_text(CAST(@asked::text AS jsonb)) AS a
LEFT JOIN pg_catalog.pg_settings AS s ON lower(s.name) = lower(a.key)
WHERE coalesce(s.source, '') NOT IN ('client', 'session')
  AND coalesce(s.setting, current_setting(a.key, true)) IS DISTINCT FROM a.value;

-- DecisionRead reads a parked operation for an operator's decision and holds its row.
-- name: DecisionRead :one
SELECT kind::text AS kind, state::text AS state, claim, attempt, error
FROM idempotency_keys
WHERE scope = @scope::text AND id = @id::text
FOR UPDATE;

-- DecisionSettle ends a parked operation with an outcome.
-- name: DecisionSettle :one
UPDATE idempotency_keys
SET state = @finished::text, result = sqlc.narg(result)::bytea, error = coalesce(error, sqlc.narg(error)::bytea), parked = NULL,
    updated_at = clock_timestamp(), finished_at = clock_timestamp(), expires_at = clock_timestamp() + @ttl::interval
WHERE scope = @scope::text AND id = @id::text AND state = 'parked' AND claim = CAST(@claim::text AS uuid)
RETURNING attempt;

-- DecisionRelease lets a parked operation go on from its recovery point, with attempts as if it were new.
-- name: DecisionRelease :one
UPDATE idempotency_keys
SET state = 'released', parked = NULL, attempts_forgiven = attempt, updated_at = clock_timestamp()
WHERE scope = @scope::text AND id = @id::text AND state = 'parked' AND claim = CAST(@claim::text AS uuid)
RETURNING attempt;

-- DecisionIntent finds the step whose outcome is not known.
-- name: DecisionIntent :one
SELECT name, (deadline IS NOT NULL)::boolean AS reconcilable
FROM idempotency_steps
WHERE scope = @scope::text AND id = @id::text AND recorded_at IS NULL;

-- DecisionWithdraw takes an intent back: the operator vouches for it that the call did not happen and will not.
-- name: DecisionWithdraw :exec
DELETE FROM idempotency_steps
WHERE scope = @scope::text AND id = @id::text AND recorded_at IS NULL;

-- DecisionRecord records the result of a step whose outcome an operator has found out.
-- name: DecisionRecord :one
WITH point AS (
    UPDATE idempotency_keys
    SET recovery_point = @name::text
    WHERE scope = @scope::text AND id = @id::text AND state = 'parked' AND claim = CAST(@claim::text AS uuid)
    RETURNING claim)
INSERT INTO idempotency_steps AS s (scope, id, name, ordinal, claim, result, recorded_at)
VALUES (@scope::text, @id::text, @name::text,
        (SELECT 1 + count(*) FROM idempotency_steps AS r
         WHERE r.scope = @scope::text AND r.id = @id::text AND r.recorded_at IS NOT NULL),
        (SELECT claim FROM point), @result::bytea, clock_timestamp())
ON CONFLICT (scope, id, name) DO UPDATE
SET ordinal = CASE WHEN s.recorded_at IS NULL THEN s.ordinal END,
    claim = excluded.claim, result = excluded.result, recorded_at = excluded.recorded_at
RETURNING ordinal;

-- DecisionAudit writes down who has decided what, and why.
-- name: DecisionAudit :one
INSERT INTO idempotency_audit (scope, id, action, claim, attempt, step, actor, reason)
VALUES (@scope::text, @id::text, @action::text, CAST(@claim::text AS uuid), @attempt::integer, sqlc.narg(step)::text, @actor::text, @reason::text)
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

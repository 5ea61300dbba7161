-- StepRecord records a step and moves the recovery point. COMMIT travels in the same round trip, so everything that must hold is a
-- NULL that raises: claim where the operation was taken over or is not running any more, name where the step's function has ended the
-- transaction, scope where the table's name means another table now, ordinal where the step is recorded already. An intent of the step
-- gets its result.
-- name: StepRecord :one
WITH fence AS (
    UPDATE idempotency_keys
    SET recovery_point = @name::text, updated_at = clock_timestamp()
    WHERE scope = @scope::text AND id = @id::text
      AND state = @state::text AND claim = CAST(@claim::text AS uuid)
    RETURNING claim)
INSERT INTO idempotency_steps AS s (scope, id, name, ordinal, claim, result, recorded_at)
VALUES (CASE WHEN @keys_table::bigint IN (0, CAST(to_regclass('idempotency_keys')::oid AS bigint)) THEN @scope::text END, @id::text,
        CASE WHEN current_setting('pgidem.claim', true) = @claim::text THEN @name::text END,
        @ordinal::integer, (SELECT claim FROM fence), @result::bytea, clock_timestamp())
ON CONFLICT (scope, id, name) DO UPDATE
SET ordinal = CASE WHEN s.recorded_at IS NULL THEN excluded.ordinal END,
    claim = excluded.claim, result = excluded.result, recorded_at = excluded.recorded_at
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- StepFinish records the last step and saves the operation's result in one statement; it raises as StepRecord does.
-- name: StepFinish :one
WITH fence AS (
    UPDATE idempotency_keys
    SET recovery_point = @name::text, state = 'succeeded', result = @result::bytea, owner = NULL, updated_at = clock_timestamp(),
        finished_at = clock_timestamp(), expires_at = clock_timestamp() + @ttl::interval
    WHERE scope = @scope::text AND id = @id::text
      AND state = 'running' AND claim = CAST(@claim::text AS uuid)
    RETURNING claim)
INSERT INTO idempotency_steps AS s (scope, id, name, ordinal, claim, result, recorded_at)
VALUES (CASE WHEN @keys_table::bigint IN (0, CAST(to_regclass('idempotency_keys')::oid AS bigint)) THEN @scope::text END, @id::text,
        CASE WHEN current_setting('pgidem.claim', true) = @claim::text THEN @name::text END,
        @ordinal::integer, (SELECT claim FROM fence), @step_result::bytea, clock_timestamp())
ON CONFLICT (scope, id, name) DO UPDATE
SET ordinal = CASE WHEN s.recorded_at IS NULL THEN excluded.ordinal END,
    claim = excluded.claim, result = excluded.result, recorded_at = excluded.recorded_at
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- StepIntend commits that a foreign call is about to be made, and until when it may take effect, where a provider can be asked. A
-- further call renews the deadline. It raises as StepRecord does.
-- name: StepIntend :one
WITH fence AS (
    UPDATE idempotency_keys
    SET updated_at = clock_timestamp()
    WHERE scope = @scope::text AND id = @id::text
      AND state = @state::text AND claim = CAST(@claim::text AS uuid)
    RETURNING claim)
INSERT INTO idempotency_steps AS s (scope, id, name, ordinal, claim, intent_at, deadline)
VALUES (@scope::text, @id::text, @name::text, @ordinal::integer, (SELECT claim FROM fence), clock_timestamp(),
        clock_timestamp() + sqlc.narg(timeout)::interval)
ON CONFLICT (scope, id, name) DO UPDATE
SET ordinal = CASE WHEN s.recorded_at IS NULL THEN excluded.ordinal END,
    claim = excluded.claim, intent_at = excluded.intent_at, deadline = excluded.deadline
RETURNING coalesce(CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
                        THEN set_config('synchronous_commit', 'on', true) END, '')::text AS raised;

-- StepWithdraw takes back an intent whose call was not started, together with a release.
-- name: StepWithdraw :exec
DELETE FROM idempotency_steps AS s
USING idempotency_keys AS k
WHERE s.scope = @scope::text AND s.id = @id::text AND s.name = @name::text AND s.recorded_at IS NULL
  AND k.scope = s.scope AND k.id = s.id
  AND k.state IN ('running', 'undoing') AND k.claim = CAST(@claim::text AS uuid);

-- StepFind reads whether a step is recorded, under which claim, and with which result.
-- name: StepFind :one
SELECT claim, result
FROM idempotency_steps
WHERE scope = @scope::text AND id = @id::text AND name = @name::text AND recorded_at IS NOT NULL;

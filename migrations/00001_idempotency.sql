-- +goose Up
-- pgidem, schema version 1. Unqualified names on purpose: search_path chooses the schema.
-- Plain SQL without goose: run the statements of the Up section in one transaction.

-- A domain costs nothing where a CHECK on the table costs server CPU on every write.
CREATE DOMAIN idempotency_kind AS text
    CONSTRAINT idempotency_kind_known CHECK (VALUE IN ('tx', 'steps', 'mark'));

CREATE DOMAIN idempotency_state AS text
    CONSTRAINT idempotency_state_known CHECK (VALUE IN
        ('running', 'undoing', 'released', 'parked', 'succeeded', 'failed', 'tombstone'));

CREATE TABLE idempotency_keys (
    -- COLLATE "C": byte order, so that time-ordered IDs stay together in the index whatever the database's locale.
    scope                 text COLLATE "C"  NOT NULL,
    id                    text COLLATE "C"  NOT NULL,
    kind                  idempotency_kind  NOT NULL,
    state                 idempotency_state NOT NULL,
    -- The fence: 128 random bits, new with every claim, tested by every later write.
    claim                 uuid              NOT NULL,
    -- How many times the key was claimed: for people and limits, not a fence.
    attempt               integer           NOT NULL,
    -- Attempts before an operator's last decision: the limit counts from here.
    attempts_forgiven     integer           NOT NULL DEFAULT 0,
    -- The client instance that holds the claim; set only while the operation is in its owner's hands.
    owner                 bigint,
    -- Random, stored at the first claim of a key's life: what downstream keys of steps are derived from.
    life                  uuid,
    -- 0 = the caller gave no fingerprint.
    fingerprint_algorithm smallint          NOT NULL DEFAULT 0,
    fingerprint           bytea,
    operation             text,
    input                 bytea,
    recovery_point        text,
    -- bytea, because jsonb does not give the same bytes back.
    result                bytea,
    -- The definite failure of a failed operation, and of one that is being undone; never cleared.
    error                 bytea,
    -- Why it is parked, for as long as it is.
    parked                bytea,
    created_at            timestamptz       NOT NULL DEFAULT clock_timestamp(),
    updated_at            timestamptz       NOT NULL DEFAULT clock_timestamp(),
    finished_at           timestamptz,
    -- Only finished rows expire.
    expires_at            timestamptz,

    CONSTRAINT idempotency_keys_pkey PRIMARY KEY (scope, id),
    -- The only CHECK: a finished row with an owner is how a takeover would resurrect it.
    CONSTRAINT idempotency_keys_owner CHECK ((owner IS NULL) = (state NOT IN ('running', 'undoing')))
) WITH (fillfactor = 90);

CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);
-- What a client instance has in its hands: only operations of several steps that are under way.
CREATE INDEX idempotency_keys_owned ON idempotency_keys (owner) WHERE owner IS NOT NULL;

-- One row a step: a column that grows with every step would rewrite all earlier results each time.
CREATE TABLE idempotency_steps (
    scope       text COLLATE "C" NOT NULL,
    id          text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    ordinal     integer          NOT NULL,
    -- The claim that recorded the step: a fenced write has nothing to put here, and NOT NULL makes it raise.
    claim       uuid             NOT NULL,
    -- A step without result is an intent: the foreign call may have been sent.
    result      bytea,
    intent_at   timestamptz,
    deadline    timestamptz,
    recorded_at timestamptz,

    CONSTRAINT idempotency_steps_pkey PRIMARY KEY (scope, id, name),
    CONSTRAINT idempotency_steps_key FOREIGN KEY (scope, id)
        REFERENCES idempotency_keys (scope, id) ON DELETE CASCADE
);

-- What operators have decided about parked operations. Without a foreign key: it outlives the rows that it is about.
CREATE TABLE idempotency_audit (
    n        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz      NOT NULL DEFAULT clock_timestamp(),
    scope    text COLLATE "C" NOT NULL,
    id       text COLLATE "C" NOT NULL,
    action   text             NOT NULL,
    -- The parked row as the decision found it.
    claim    uuid             NOT NULL,
    attempt  integer          NOT NULL,
    step     text,
    -- Who says so, and the role that it was said with.
    actor    text             NOT NULL,
    role     text             NOT NULL DEFAULT session_user,
    reason   text             NOT NULL
);

CREATE INDEX idempotency_audit_key ON idempotency_audit (scope, id);

-- Every legality that is too dear to check on each write, spelled as one query that must return nothing.
CREATE VIEW idempotency_illegal_rows AS
SELECT k.scope, k.id, 'scope is not 1 to 255 bytes'::text AS reason
FROM idempotency_keys k
WHERE octet_length(k.scope) NOT BETWEEN 1 AND 255
UNION ALL
SELECT k.scope, k.id, 'id is not 1 to 255 bytes'::text AS reason
FROM idempotency_keys k
WHERE octet_length(k.id) NOT BETWEEN 1 AND 255
UNION ALL
SELECT k.scope, k.id, 'attempt is less than 1'::text AS reason
FROM idempotency_keys k
WHERE k.attempt < 1
UNION ALL
SELECT k.scope, k.id, 'a tx operation is saved only when it is finished'::text AS reason
FROM idempotency_keys k
WHERE k.kind = 'tx' AND k.state NOT IN ('succeeded', 'failed', 'tombstone')
UNION ALL
SELECT k.scope, k.id, 'a mark is saved only as succeeded'::text AS reason
FROM idempotency_keys k
WHERE k.kind = 'mark' AND k.state NOT IN ('succeeded', 'tombstone')
UNION ALL
SELECT k.scope, k.id, 'an owner, and only an owner, is running or undoing'::text AS reason
FROM idempotency_keys k
WHERE (k.owner IS NULL) <> (k.state NOT IN ('running', 'undoing'))
UNION ALL
SELECT k.scope, k.id, 'finished_at is set exactly in finished states'::text AS reason
FROM idempotency_keys k
WHERE (k.finished_at IS NULL) <> (k.state NOT IN ('succeeded', 'failed', 'tombstone'))
UNION ALL
SELECT k.scope, k.id, 'expires_at is set exactly in finished states'::text AS reason
FROM idempotency_keys k
WHERE (k.expires_at IS NULL) <> (k.state NOT IN ('succeeded', 'failed', 'tombstone'))
UNION ALL
SELECT k.scope, k.id, 'times run backwards'::text AS reason
FROM idempotency_keys k
WHERE k.finished_at < k.created_at OR k.expires_at < k.finished_at
UNION ALL
SELECT k.scope, k.id, 'a result is saved exactly with success'::text AS reason
FROM idempotency_keys k
WHERE (k.result IS NULL) <> (k.state <> 'succeeded' OR k.kind = 'mark')
UNION ALL
SELECT k.scope, k.id, 'failed and undoing rows say why'::text AS reason
FROM idempotency_keys k
WHERE k.error IS NULL AND k.state IN ('failed', 'undoing')
UNION ALL
SELECT k.scope, k.id, 'parked rows, and only parked rows, say why'::text AS reason
FROM idempotency_keys k
WHERE (k.parked IS NULL) <> (k.state <> 'parked')
UNION ALL
SELECT k.scope, k.id, 'more attempts are forgiven than were made'::text AS reason
FROM idempotency_keys k
WHERE k.attempts_forgiven NOT BETWEEN 0 AND k.attempt
UNION ALL
SELECT k.scope, k.id, 'an error is never cleared, so these states cannot have one'::text AS reason
FROM idempotency_keys k
WHERE k.error IS NOT NULL AND k.state IN ('succeeded', 'running', 'tombstone')
UNION ALL
SELECT k.scope, k.id, 'fingerprint and fingerprint_algorithm belong together'::text AS reason
FROM idempotency_keys k
WHERE (k.fingerprint IS NULL) <> (k.fingerprint_algorithm = 0)
UNION ALL
SELECT k.scope, k.id, 'only operations of several steps have a recovery point, a life, a name or an input'::text AS reason
FROM idempotency_keys k
WHERE k.kind <> 'steps' AND (k.recovery_point IS NOT NULL OR k.life IS NOT NULL
        OR k.operation IS NOT NULL OR k.input IS NOT NULL OR k.parked IS NOT NULL)
UNION ALL
SELECT k.scope, k.id, 'an operation of several steps has a life'::text AS reason
FROM idempotency_keys k
WHERE k.kind = 'steps' AND k.life IS NULL
UNION ALL
SELECT k.scope, k.id, 'the recovery point is not a recorded step'::text AS reason
FROM idempotency_keys k
WHERE k.recovery_point IS NOT NULL AND NOT EXISTS (
        SELECT FROM idempotency_steps s
        WHERE s.scope = k.scope AND s.id = k.id AND s.name = k.recovery_point AND s.recorded_at IS NOT NULL)
UNION ALL
SELECT s.scope, s.id, 'a step belongs to an operation of another kind'::text AS reason
FROM idempotency_steps s JOIN idempotency_keys k ON k.scope = s.scope AND k.id = s.id
WHERE k.kind <> 'steps'
UNION ALL
SELECT s.scope, s.id, 'a step has no name'::text AS reason
FROM idempotency_steps s
WHERE s.name = ''
UNION ALL
SELECT s.scope, s.id, 'a step is recorded exactly when it has a result'::text AS reason
FROM idempotency_steps s
WHERE (s.result IS NULL) <> (s.recorded_at IS NULL)
UNION ALL
SELECT s.scope, s.id, 'a step is neither an intent nor recorded'::text AS reason
FROM idempotency_steps s
WHERE s.recorded_at IS NULL AND s.intent_at IS NULL
UNION ALL
SELECT s.scope, s.id, 'steps are not recorded in order'::text AS reason
FROM idempotency_steps s
WHERE s.ordinal <> 1 AND NOT EXISTS (
        SELECT FROM idempotency_steps p
        WHERE p.scope = s.scope AND p.id = s.id AND p.ordinal = s.ordinal - 1 AND p.recorded_at IS NOT NULL);

-- Read by the library before its first claim: it works with every schema whose "compatible" is not above its own version.
COMMENT ON TABLE idempotency_keys IS 'pgidem schema=1 compatible=1';

-- +goose Down
DROP VIEW idempotency_illegal_rows;
DROP TABLE idempotency_audit;
DROP TABLE idempotency_steps;
DROP TABLE idempotency_keys;
DROP DOMAIN idempotency_state;
DROP DOMAIN idempotency_kind;

"""Holds: rows that must not be purged. And the audit: what was purged, by whom, under which rule.

Neither table loses a row: triggers refuse it to everybody, the owner too, and privileges to everybody else.
"""

from alembic import op

revision = "lowtide_0004"
down_revision = "lowtide_0003"
branch_labels = None
depends_on = None

# A regclass is dumped as a name and restored as that table's new oid; `table_name` finds a table that was made anew
# under the old name. `value` is as the column's type prints it.
HOLD = """
CREATE TABLE lowtide.hold (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL,
    table_name text COLLATE "C" NOT NULL,
    column_name text COLLATE "C" NOT NULL,
    value text NOT NULL,
    reason text NOT NULL,
    until timestamptz,
    placed_by text NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    released_by text,
    released_at timestamptz,
    release_reason text,
    CONSTRAINT hold_value_fits CHECK (octet_length(value) <= 1000),
    CONSTRAINT hold_released CHECK (
        (released_at IS NULL) = (released_by IS NULL) AND (released_at IS NULL) = (release_reason IS NULL)
    )
)
"""
AUDIT = """
CREATE TABLE lowtide.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL,
    run text,
    policy text,
    table_name text,
    requested_by text,
    role text NOT NULL DEFAULT session_user,
    policy_sha256 text,
    cutoff timestamptz,
    detail jsonb NOT NULL DEFAULT '{}'
)
"""
# The values are indexed byte by byte: an order of a language may change with the operating system, and then an index
# would not find what is held.
INDEXES = (
    'CREATE INDEX hold_by_relation ON lowtide.hold (relation, column_name, (value COLLATE "C")) '
    "WHERE released_at IS NULL",
    "CREATE INDEX hold_by_name ON lowtide.hold (table_name, relation, column_name) WHERE released_at IS NULL",
    "CREATE INDEX audit_by_run ON lowtide.audit (run, id) WHERE run IS NOT NULL",
)

REFUSE = """
CREATE FUNCTION lowtide.refuse() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = '42501';
END
$function$
"""
# ALWAYS: also where a session says that it is a replica's.
TRIGGERS = (
    "CREATE TRIGGER hold_kept BEFORE DELETE OR TRUNCATE ON lowtide.hold FOR EACH STATEMENT "
    "EXECUTE FUNCTION lowtide.refuse('holds are kept for the audit: `lowtide hold release` ends one')",
    "ALTER TABLE lowtide.hold ENABLE ALWAYS TRIGGER hold_kept",
    """
    CREATE TRIGGER hold_released_once BEFORE UPDATE ON lowtide.hold FOR EACH ROW
    WHEN (OLD.released_at IS NOT NULL OR NEW.released_at IS NULL
          OR (OLD.id, OLD.relation::oid, OLD.table_name, OLD.column_name, OLD.value, OLD.reason, OLD.until,
              OLD.placed_by, OLD.placed_at)
             IS DISTINCT FROM (NEW.id, NEW.relation::oid, NEW.table_name, NEW.column_name, NEW.value, NEW.reason,
                               NEW.until, NEW.placed_by, NEW.placed_at))
    EXECUTE FUNCTION lowtide.refuse('a hold can only be released, and once: place another one for anything else')
    """,
    "ALTER TABLE lowtide.hold ENABLE ALWAYS TRIGGER hold_released_once",
    "CREATE TRIGGER audit_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON lowtide.audit FOR EACH STATEMENT "
    "EXECUTE FUNCTION lowtide.refuse('the audit is append-only: what it says stands')",
    "ALTER TABLE lowtide.audit ENABLE ALWAYS TRIGGER audit_kept",
)

# Who wrote a row, and when, is not the writer's to say; and it outlives a crash, with the transaction that it is of.
STAMP = """
CREATE FUNCTION lowtide.stamp_audit() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    NEW.at := clock_timestamp();
    NEW.role := session_user;
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    RETURN NEW;
END
$function$
"""
STAMPED = """
CREATE TRIGGER audit_stamped BEFORE INSERT ON lowtide.audit FOR EACH ROW EXECUTE FUNCTION lowtide.stamp_audit()
"""

# However a run ends, it ends by an UPDATE that sets finished_at: in that transaction the end is written of a run whose
# begin was. Definer's rights: whoever may end a run must not be able to leave it open in the audit.
END = """
CREATE FUNCTION lowtide.audit_end() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    last lowtide.audit;
    told jsonb := jsonb_build_object('state', NEW.state, 'purged', NEW.rows_done, 'batches', NEW.batches);
BEGIN
    SELECT * INTO last FROM lowtide.audit
    WHERE run = NEW.id AND event IN ('begin', 'end') ORDER BY id DESC LIMIT 1;
    IF last.event IS DISTINCT FROM 'begin' THEN
        RETURN NULL;
    END IF;
    IF NEW.state = 'succeeded' THEN
        told := told || (coalesce(NEW.result, '{}') - '{purged,batches,cutoff}'::text[]);
    ELSE
        told := told || jsonb_strip_nulls(jsonb_build_object(
            'counters', NEW.counters,
            'error', jsonb_build_object('type', NEW.error -> 'type', 'message', NEW.error -> 'message')
        ));
    END IF;
    INSERT INTO lowtide.audit (event, run, policy, table_name, requested_by, policy_sha256, cutoff, detail)
    VALUES (
        'end', NEW.id, last.policy, last.table_name, last.requested_by, last.policy_sha256, last.cutoff,
        told || jsonb_build_object('range', last.detail -> 'range')
    );
    RETURN NULL;
END
$function$
"""
# OF finished_at: no batch sets it, so no batch comes here.
ENDED = """
CREATE TRIGGER run_ended AFTER UPDATE OF finished_at ON lowtide.run FOR EACH ROW
WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.policy IS NOT NULL)
EXECUTE FUNCTION lowtide.audit_end()
"""

# The one key that a batch shares and that `hold add` has alone.
KEY = """
CREATE FUNCTION lowtide.hold_key(relation oid) RETURNS bigint
LANGUAGE sql IMMUTABLE
AS $function$
    SELECT pg_catalog.hashtextextended('lowtide.hold ' || relation::text, 0)
$function$
"""

# The tables, and all that they are partitions or heirs of: a hold on any of them is over their rows.
FAMILY = """
CREATE FUNCTION lowtide.family(tables oid[]) RETURNS oid[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    found oid[] := tables;
    above oid[] := tables;
BEGIN
    LOOP
        SELECT array_agg(DISTINCT inhparent) INTO above FROM pg_inherits
        WHERE inhrelid = ANY(above) AND inhparent <> ALL(found);
        EXIT WHEN above IS NULL;
        found := found || above;
    END LOOP;
    RETURN ARRAY(SELECT DISTINCT member FROM unnest(found) member ORDER BY member);
END
$function$
"""

# Which columns holds are over that nobody has released, each as '<oid in lowtide.hold>.<column>': found by the tables'
# oids and by their names. Expired ones too: the statements leave those out by the clock.
# An index tells the next column that differs, so that ten thousand holds cost no more than one; whatever the
# statistics of a table that was empty yesterday promise of other ways.
COLUMNS = """
CREATE FUNCTION lowtide.held_columns(family oid[]) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $function$
DECLARE
    pairs text[] := '{}';
    member oid;
    name text;
    at_relation oid;
    at_column text;
BEGIN
    IF NOT EXISTS (SELECT FROM lowtide.hold WHERE released_at IS NULL) THEN
        RETURN pairs;
    END IF;
    FOREACH member IN ARRAY family LOOP
        at_column := '';
        LOOP
            SELECT column_name INTO at_column FROM lowtide.hold
            WHERE relation = member AND column_name > at_column AND released_at IS NULL
            ORDER BY column_name LIMIT 1;
            EXIT WHEN NOT FOUND;
            pairs := pairs || (member || '.' || at_column);
        END LOOP;
    END LOOP;
    FOR name IN
        SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = ANY(family)
    LOOP
        at_relation := 0;
        at_column := '';
        LOOP
            SELECT relation, column_name INTO at_relation, at_column FROM lowtide.hold
            WHERE table_name = name AND released_at IS NULL
              AND (relation, column_name) > (at_relation::regclass, at_column)
            ORDER BY relation, column_name LIMIT 1;
            EXIT WHEN NOT FOUND;
            IF at_relation <> ALL(family) THEN
                pairs := pairs || (at_relation || '.' || at_column);
            END IF;
        END LOOP;
    END LOOP;
    RETURN pairs;
END
$function$
"""

# What each batch says first, as a statement of its own: what comes after sees every hold that was placed before.
# A batch waits for a lock of tens of milliseconds at most; for a hold that is being placed it may wait longer, as it
# has nothing that others could wait for.
UNDER = """
CREATE FUNCTION lowtide.under_holds(tables oid[], known text[]) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    members oid[] := lowtide.family(tables);
    member oid;
    usual text;
    held text[];
BEGIN
    FOREACH member IN ARRAY members LOOP
        IF NOT pg_try_advisory_xact_lock_shared(lowtide.hold_key(member)) THEN
            usual := current_setting('lock_timeout');
            PERFORM set_config('lock_timeout', '10s', true);
            PERFORM pg_advisory_xact_lock_shared(lowtide.hold_key(member));
            PERFORM set_config('lock_timeout', usual, true);
        END IF;
    END LOOP;
    held := lowtide.held_columns(members);
    IF NOT (held <@ known AND known <@ held) THEN
        RAISE EXCEPTION 'the holds have changed: they are over % now, not %', held, known
            USING ERRCODE = 'LT411', HINT = 'Nothing is wrong: the statements are made anew.';
    END IF;
    RETURN '{}';
END
$function$
"""

# What default privileges have given to others, as docs/roles.sql sets them, and these tables must not give.
RIGHTS = """
DO $do$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT c.oid::regclass AS name, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS role,
               string_agg(a.privilege_type, ', ') AS rights
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE a.grantee <> c.relowner AND (
            (c.oid = 'lowtide.hold'::regclass AND a.privilege_type <> 'SELECT')
            OR (c.oid = 'lowtide.audit'::regclass AND a.privilege_type NOT IN ('SELECT', 'INSERT')))
        GROUP BY c.oid, a.grantee
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %s', given.rights, given.name, given.role);
    END LOOP;
END
$do$
"""


def upgrade() -> None:
    tables = (HOLD, AUDIT, *INDEXES, RIGHTS, REFUSE, *TRIGGERS, STAMP, STAMPED, END, ENDED)
    functions = (KEY, FAMILY, COLUMNS, UNDER)
    for statement in (*tables, *functions, "REVOKE ALL ON ALL ROUTINES IN SCHEMA lowtide FROM PUBLIC"):
        op.get_bind().exec_driver_sql(statement)

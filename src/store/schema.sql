-- lockstep schema 1
--
-- What every backend carries: the control row, the secrets, the journal, and the functions through which a proxy that
-- knows the token writes. Running this file again upgrades the functions and keeps the data.
--
-- Rules kept throughout, because ordinary users share the database with us:
-- * functions that act for the proxy are SECURITY DEFINER with search_path pinned, and check the token first;
-- * code that users wrote (domain checks, index expressions, constraints, casts) never runs with the administrator's
--   rights: rows are applied by a helper that belongs to the owner of the table;
-- * a text argument that begins with \x is the hexadecimal form of its UTF-8 bytes, so that names and rows pass
--   unharmed through sessions of any client_encoding (a quoted name begins with a quote, a row with a parenthesis).

SET client_min_messages = warning;

-- Somebody who may create schemas could have made ours first and kept the ownership of what is in it.
DO $$
DECLARE
  stranger text;
BEGIN
  SELECT o INTO stranger FROM (
    SELECT 'schema lockstep' AS o, nspowner AS owner FROM pg_catalog.pg_namespace WHERE nspname = 'lockstep'
    UNION ALL
    SELECT 'relation ' || c.relname, c.relowner FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'lockstep'
    UNION ALL
    SELECT 'function ' || p.proname, p.proowner FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = 'lockstep' AND p.proname !~ '^as_[0-9]+$'
  ) x JOIN pg_catalog.pg_roles r ON r.oid = x.owner WHERE NOT r.rolsuper LIMIT 1;
  IF stranger IS NOT NULL THEN
    RAISE EXCEPTION '% belongs to an ordinary user', stranger
      USING ERRCODE = '42501', HINT = 'Drop it, then run lockstep init again.';
  END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS lockstep;
COMMENT ON SCHEMA lockstep IS 'lockstep schema 1';

CREATE TABLE IF NOT EXISTS lockstep.control (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  cluster_id text NOT NULL,
  backend text NOT NULL,
  system_identifier text NOT NULL,
  view bigint NOT NULL DEFAULT 0,
  members text[] NOT NULL DEFAULT '{}',
  ballot bigint NOT NULL DEFAULT 0,
  complete_to bigint NOT NULL DEFAULT 0,
  pruned_to bigint NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS lockstep.secret (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  token text NOT NULL,
  capture_token text NOT NULL
);

CREATE TABLE IF NOT EXISTS lockstep.journal (
  seq bigint PRIMARY KEY,
  id bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  usr text NOT NULL,
  entry bytea NOT NULL
);

-- Default privileges of the database may have granted rights on the new tables to anyone.
DO $$
DECLARE
  g record;
BEGIN
  FOR g IN
    SELECT DISTINCT c.oid::regclass AS rel, a.grantee
    FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
    WHERE c.relnamespace = 'lockstep'::regnamespace AND a.grantee <> c.relowner
  LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', g.rel,
      CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END);
  END LOOP;
END $$;

-- Raises unless the caller knows the token. Digests are compared, so that the time taken says nothing of the secret.
CREATE OR REPLACE FUNCTION lockstep.check_token(given text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT coalesce((SELECT sha256(convert_to(s.token, 'UTF8')) = sha256(convert_to(given, 'UTF8'))
                   FROM lockstep.secret s), false) THEN
    RAISE EXCEPTION 'lockstep: only the proxy may call this' USING ERRCODE = '42501';
  END IF;
END $$;

-- The other half of the \x rule above.
CREATE OR REPLACE FUNCTION lockstep.plain(t text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN pg_catalog.starts_with(t, '\x')
    THEN pg_catalog.convert_from(pg_catalog.decode(pg_catalog.substr(t, 3), 'hex'), 'UTF8') ELSE t END
$$;

CREATE OR REPLACE FUNCTION lockstep.plain_all(t text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
  SELECT pg_catalog.array_agg(lockstep.plain(x) ORDER BY i)
  FROM pg_catalog.unnest(t) WITH ORDINALITY AS u(x, i)
$$;

-- Writes the journal's row of this transaction. Without a user it is the one who is logged in.
CREATE OR REPLACE FUNCTION lockstep.record(token text, seq bigint, id bigint, usr text, entry bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM lockstep.check_token(token);
  INSERT INTO lockstep.journal VALUES (seq, id, clock_timestamp(), coalesce(lockstep.plain(usr), session_user), entry);
END $$;

-- What marks the notices of this session as ours: it hangs on the process and on a word that the proxy has chosen for
-- this connection, so that somebody who connects past the proxy, turns the capture on and reads his own mark gains
-- nothing from it.
CREATE OR REPLACE FUNCTION lockstep.own_mark() RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat(s.capture_token, '/',
    pg_catalog.pg_backend_pid(), '/', pg_catalog.current_setting('lockstep.session', true)), 'UTF8')), 'hex')
  FROM lockstep.secret s
$$;

CREATE OR REPLACE FUNCTION lockstep.mark(token text, session text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM lockstep.check_token(token);
  PERFORM set_config('lockstep.session', session, false);
  RETURN lockstep.own_mark();
END $$;

-- Sends each changed row to the proxy. The number in the notice is transactional (a setting that goes back with a
-- subtransaction), so the proxy can tell which of the rows it was sent were rolled back again inside a function.
-- record_out and not a cast: a cast could be the user's own, and this runs with the administrator's rights.
CREATE OR REPLACE FUNCTION lockstep.capture_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres'
SET "TimeZone" = 'UTC' SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C' AS $$
DECLARE
  mark text;
  serial text;
  before text := '';
  after text := '';
BEGIN
  SELECT encode(sha256(convert_to(concat(s.capture_token, '/', pg_backend_pid(), '/',
      current_setting('lockstep.session', true)), 'UTF8')), 'hex'),
    (coalesce(nullif(current_setting('lockstep.serial', true), ''), '0')::bigint + 1)::text
    INTO mark, serial FROM lockstep.secret s;
  IF TG_OP = 'INSERT' THEN
    after := textin(record_out(NEW));
  ELSIF TG_OP = 'UPDATE' THEN
    before := textin(record_out(OLD));
    after := textin(record_out(NEW));
  ELSIF TG_OP = 'DELETE' THEN
    before := textin(record_out(OLD));
  END IF;
  PERFORM set_config('lockstep.serial', serial, true);
  IF current_setting('client_encoding') = 'UTF8' THEN
    RAISE INFO USING ERRCODE = 'LS002', MESSAGE = mark, SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
      COLUMN = concat(left(TG_OP, 1), serial), DETAIL = before, HINT = after;
  ELSE
    RAISE INFO USING ERRCODE = 'LS002', MESSAGE = mark,
      SCHEMA = encode(convert_to(TG_TABLE_SCHEMA, 'UTF8'), 'hex'),
      TABLE = encode(convert_to(TG_TABLE_NAME, 'UTF8'), 'hex'),
      COLUMN = concat('x', left(TG_OP, 1), serial),
      DETAIL = encode(convert_to(before, 'UTF8'), 'hex'), HINT = encode(convert_to(after, 'UTF8'), 'hex');
  END IF;
  RETURN NULL;
END $$;

-- The helper through which rows reach the tables of one owner. Its owner may alter it (that comes with ownership), so
-- it checks first that it really runs as him, with nothing in that check that a search_path could bend.
CREATE OR REPLACE FUNCTION lockstep.make_helper(owner oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lockstep.capture = 'off' AS $$
DECLARE
  helper text := format('lockstep.as_%s(text, text[], text[])', owner);
BEGIN
  EXECUTE format($make$
    CREATE FUNCTION lockstep.as_%1$s(statement text, before text[], after text[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER AS $body$
    DECLARE
      touched bigint;
    BEGIN
      IF pg_catalog.quote_ident(current_user)::pg_catalog.regrole::pg_catalog.oid
          OPERATOR(pg_catalog.<>) %1$s::pg_catalog.oid THEN
        RAISE EXCEPTION 'lockstep: this function was altered' USING ERRCODE = '42501';
      END IF;
      EXECUTE statement USING before, after;
      GET DIAGNOSTICS touched = ROW_COUNT;
      RETURN touched;
    END $body$ $make$, owner);
  EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', helper);
  EXECUTE format('ALTER FUNCTION %s OWNER TO %s', helper, owner::regrole);
END $$;

-- Whether writing to a table runs nothing that users wrote.
CREATE OR REPLACE FUNCTION lockstep.harmless(rel oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT NOT EXISTS (
      SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped AND t.oid >= 16384 AND t.typtype <> 'e')
    AND NOT EXISTS (SELECT FROM pg_cast k JOIN pg_class c ON c.reltype = k.casttarget WHERE c.oid = rel)
    AND NOT EXISTS (
      SELECT FROM pg_depend d
      WHERE d.refobjid >= 16384
        AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_opclass'::regclass)
        AND ((d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT oid FROM pg_constraint WHERE conrelid = rel))
          OR (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT indexrelid FROM pg_index WHERE indrelid = rel))
          OR (d.classid = 'pg_attrdef'::regclass AND d.objid IN (SELECT oid FROM pg_attrdef WHERE adrelid = rel))))
$$;

-- The condition that finds the row t whose former self is s.o by the best key of a table; NULL when it has none.
CREATE OR REPLACE FUNCTION lockstep.key_condition(rel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT string_agg(format('t.%1$I OPERATOR(%2$I.%3$s) (s.o).%1$I', a.attname, n.nspname, o.oprname), ' AND ')
  FROM (SELECT i.indkey, i.indclass, i.indnkeyatts FROM pg_index i
        WHERE i.indrelid = rel AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
          AND NOT EXISTS (SELECT FROM generate_series(0, i.indnkeyatts - 1) AS p(k)
                          JOIN pg_attribute b ON b.attrelid = rel AND b.attnum = i.indkey[p.k]
                          WHERE NOT b.attnotnull)
        ORDER BY i.indisprimary DESC, i.indimmediate DESC, i.indexrelid LIMIT 1) x
  CROSS JOIN LATERAL generate_series(0, x.indnkeyatts - 1) AS g(k)
  JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = x.indkey[g.k]
  JOIN pg_opclass c ON c.oid = x.indclass[g.k]
  JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype
    AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3
  JOIN pg_operator o ON o.oid = m.amopopr
  JOIN pg_namespace n ON n.oid = o.oprnamespace
$$;

-- The statement that applies one kind of change to one table. $1 are the former rows, $2 the new ones, as text.
-- A table without a key finds each row by its whole text, and takes one physical row for each that is given.
CREATE OR REPLACE FUNCTION lockstep.statement(rel oid, op text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  name text;
  key text;
  columns text;
  fields text;
  assignments text;
BEGIN
  SELECT format('%I.%I', n.nspname, c.relname) INTO STRICT name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel;
  IF op <> 'D' THEN
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum),
        string_agg(format('(s.n).%I', attname), ', ' ORDER BY attnum),
        string_agg(format('%1$I = (s.n).%1$I', attname), ', ' ORDER BY attnum) FILTER (WHERE attidentity <> 'a')
      INTO columns, fields, assignments
      FROM pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
  END IF;
  IF op = 'I' THEN
    RETURN format('INSERT INTO %1$s %2$s OVERRIDING SYSTEM VALUE SELECT %3$s FROM '
      '(SELECT u.n::%1$s AS n FROM pg_catalog.unnest($2) AS u(n) OFFSET 0) s',
      name, '(' || columns || ')', coalesce(fields, ''));
  END IF;
  key := lockstep.key_condition(rel);
  IF op = 'U' AND assignments IS NULL THEN
    RETURN NULL;
  ELSIF op = 'U' AND key IS NOT NULL THEN
    RETURN format('UPDATE ONLY %1$s t SET %2$s FROM (SELECT u.o::%1$s AS o, u.n::%1$s AS n '
      'FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS u(o, n) OFFSET 0) s WHERE %3$s', name, assignments, key);
  ELSIF key IS NOT NULL THEN
    RETURN format('DELETE FROM ONLY %1$s t USING (SELECT u.o::%1$s AS o FROM pg_catalog.unnest($1) AS u(o) OFFSET 0) s '
      'WHERE %2$s', name, key);
  END IF;
  RETURN format('WITH want AS (SELECT u.o, u.n, row_number() OVER (PARTITION BY u.o COLLATE "C") AS k '
      'FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest(%2$s)) AS u(o, n)), '
    'have AS (SELECT h.ctid AS c, textin(record_out(h.*)) AS o, '
      'row_number() OVER (PARTITION BY textin(record_out(h.*)) COLLATE "C") AS k '
      'FROM ONLY %1$s h WHERE textin(record_out(h.*)) = ANY ($1)), '
    's AS MATERIALIZED (SELECT have.c, want.n::%1$s AS n FROM want JOIN have ON want.o = have.o AND want.k = have.k) ',
      name, CASE op WHEN 'U' THEN '$2' ELSE '$1' END)
    || CASE op WHEN 'U' THEN format('UPDATE ONLY %s t SET %s FROM s WHERE t.ctid = s.c', name, assignments)
       ELSE format('DELETE FROM ONLY %s t USING s WHERE t.ctid = s.c', name) END;
END $$;

-- Runs one such statement with the rights of the owner of the table.
CREATE OR REPLACE FUNCTION lockstep.run_as_owner(rel oid, statement text, before text[], after text[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  owner oid;
  trusted boolean;
  forced boolean;
  touched bigint;
BEGIN
  SELECT c.relowner, r.rolsuper, c.relrowsecurity AND c.relforcerowsecurity
    INTO STRICT owner, trusted, forced FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = rel;
  -- A table whose policies bind even its owner can only be written by the administrator.
  IF forced AND NOT trusted AND NOT lockstep.harmless(rel) THEN
    RAISE EXCEPTION 'lockstep: table % forces row security on its owner and runs functions of users', rel::regclass
      USING ERRCODE = '0A000';
  END IF;
  IF trusted OR forced THEN
    EXECUTE statement USING before, after;
    GET DIAGNOSTICS touched = ROW_COUNT;
    RETURN touched;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_proc WHERE proname = concat('as_', owner) AND pronamespace = 'lockstep'::regnamespace) THEN
    PERFORM lockstep.make_helper(owner);
  END IF;
  EXECUTE format('SELECT lockstep.as_%s($1, $2, $3)', owner) INTO touched USING statement, before, after;
  RETURN touched;
END $$;

-- Updates that move rows through each other's unique values succeed in one order only; taking all rows out and putting
-- all back in always succeeds, but takes stronger locks, so it comes second.
CREATE OR REPLACE FUNCTION lockstep.apply_updates(rel oid, before text[], after text[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  statement text := lockstep.statement(rel, 'U');
  removed bigint;
  added bigint;
BEGIN
  IF statement IS NOT NULL THEN
    IF cardinality(before) = 1 THEN
      RETURN lockstep.run_as_owner(rel, statement, before, after);
    END IF;
    BEGIN
      RETURN lockstep.run_as_owner(rel, statement, before, after);
    EXCEPTION WHEN unique_violation OR exclusion_violation THEN
      NULL;
    END;
  END IF;
  removed := lockstep.run_as_owner(rel, lockstep.statement(rel, 'D'), before, after);
  added := lockstep.run_as_owner(rel, lockstep.statement(rel, 'I'), before, after);
  RETURN least(removed, added);
END $$;

-- Truncates tables together, since those that refer to each other cannot go one by one.
CREATE OR REPLACE FUNCTION lockstep.apply_truncate(names text[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  rels regclass[] := names::regclass[];
  name text;
BEGIN
  BEGIN
    EXECUTE 'TRUNCATE ' || (SELECT string_agg('ONLY ' || r::text, ', ') FROM unnest(rels) AS u(r));
  EXCEPTION WHEN feature_not_supported THEN
    FOR name IN SELECT r::text FROM unnest(rels) AS u(r) LOOP
      EXECUTE 'DELETE FROM ONLY ' || name;
    END LOOP;
  END;
  RETURN cardinality(names);
END $$;

-- Applies captured rows: op I, U, D with rows as text, or T with the names of all tables truncated together in
-- `before` (or that of `rel` alone).
CREATE OR REPLACE FUNCTION lockstep.apply(token text, rel text, op text, old text[], new text[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica' SET row_security = off
SET lockstep.capture = 'off' SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET "TimeZone" = 'UTC'
SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C' SET xmloption = 'content'
SET array_nulls = on SET jit = off AS $$
DECLARE
  before text[] := old;
  after text[] := new;
  id regclass;
  given bigint;
  touched bigint;
BEGIN
  PERFORM lockstep.check_token(token);
  IF starts_with(rel, '\x') THEN
    before := lockstep.plain_all(before);
    after := lockstep.plain_all(after);
  END IF;
  id := lockstep.plain(rel)::regclass;
  IF op = 'I' THEN
    given := cardinality(after);
    touched := lockstep.run_as_owner(id, lockstep.statement(id, 'I'), before, after);
  ELSIF op = 'U' THEN
    given := greatest(cardinality(before), cardinality(after));
    touched := lockstep.apply_updates(id, before, after);
  ELSIF op = 'D' THEN
    given := cardinality(before);
    touched := lockstep.run_as_owner(id, lockstep.statement(id, 'D'), before, after);
  ELSIF op = 'T' THEN
    RETURN lockstep.apply_truncate(CASE WHEN cardinality(before) > 0 THEN before ELSE ARRAY[lockstep.plain(rel)] END);
  ELSE
    RAISE EXCEPTION 'lockstep: unknown kind of change %', op USING ERRCODE = '22023';
  END IF;
  IF touched IS DISTINCT FROM given THEN
    RAISE EXCEPTION 'lockstep: % of % rows of % were found', touched, given, id USING ERRCODE = 'LS001';
  END IF;
  RETURN touched;
END $$;

-- Where sequences stand. Without names: all of the database that are not temporary. Names come back in quotes always,
-- whether they need them or not, so that they compare.
CREATE OR REPLACE FUNCTION lockstep.sequences(token text, names text[])
RETURNS TABLE (name text, value bigint, called boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  id oid;
BEGIN
  PERFORM lockstep.check_token(token);
  FOR id, name IN
    SELECT c.oid, format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.relname, '"', '""'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'lockstep'
      AND (names IS NULL OR c.oid IN (SELECT to_regclass(lockstep.plain(x)) FROM unnest(names) AS u(x)))
    ORDER BY 2
  LOOP
    EXECUTE format('SELECT last_value, is_called FROM %s', name) INTO value, called;
    RETURN NEXT;
  END LOOP;
END $$;

-- Moves a sequence on, never back. What is read and written in between must be one step: the lock for it is given back
-- with the subtransaction that is rolled back on purpose, and setval does not go back with it.
CREATE OR REPLACE FUNCTION lockstep.advance(token text, name text, value bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  id regclass;
  step bigint;
  target bigint;
  reached bigint;
  called boolean;
BEGIN
  PERFORM lockstep.check_token(token);
  id := lockstep.plain(name)::regclass;
  SELECT s.seqincrement, least(greatest(value, s.seqmin), s.seqmax) INTO STRICT step, target
    FROM pg_sequence s WHERE s.seqrelid = id;
  BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(id::text, s.k))
      FROM (SELECT hashtextextended(capture_token, 0) AS k FROM lockstep.secret) s;
    EXECUTE format('SELECT last_value, is_called FROM %s', id) INTO reached, called;
    IF (step > 0 AND target > reached) OR (step < 0 AND target < reached) OR (target = reached AND NOT called) THEN
      PERFORM setval(id, target, true);
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'LS000';
  EXCEPTION WHEN SQLSTATE 'LS000' THEN
    NULL;
  END;
END $$;

-- Sets a sequence exactly, for setval and ALTER SEQUENCE … RESTART.
CREATE OR REPLACE FUNCTION lockstep.reset_sequence(token text, name text, value bigint, called boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM lockstep.check_token(token);
  PERFORM setval(lockstep.plain(name)::regclass, value, called);
END $$;

-- Tables that need the triggers and lack them, or have them disabled.
CREATE OR REPLACE FUNCTION lockstep.unguarded() RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('lockstep', 'pg_catalog', 'information_schema')
    AND 2 > (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled = 'A'
             AND t.tgname IN ('00_lockstep_capture', '00_lockstep_truncate')
             AND t.tgfoid = 'lockstep.capture_row()'::regprocedure)
$$;

-- Puts the triggers on one table. The capture is off while we do, so that our own DDL is not reported to the proxy.
CREATE OR REPLACE FUNCTION lockstep.guard(rel regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lockstep.capture = 'off' AS $$
DECLARE
  owner oid;
  trigger text;
  events text;
BEGIN
  FOR trigger, events IN VALUES ('00_lockstep_capture', 'INSERT OR UPDATE OR DELETE'), ('00_lockstep_truncate', 'TRUNCATE')
  LOOP
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = rel AND t.tgname = trigger) THEN
      EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH %s '
        'WHEN (pg_catalog.current_setting(''lockstep.capture'', true) OPERATOR(pg_catalog.=) ''on'') '
        'EXECUTE FUNCTION lockstep.capture_row()',
        trigger, events, rel, CASE events WHEN 'TRUNCATE' THEN 'STATEMENT' ELSE 'ROW' END);
    END IF;
  END LOOP;
  -- Both in one command: the event trigger fires for it too, and must find nothing left to do.
  EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER "00_lockstep_capture", '
    'ENABLE ALWAYS TRIGGER "00_lockstep_truncate"', rel);
  SELECT c.relowner INTO STRICT owner FROM pg_class c WHERE c.oid = rel;
  IF NOT (SELECT rolsuper FROM pg_roles WHERE oid = owner) AND NOT EXISTS (
      SELECT FROM pg_proc WHERE proname = concat('as_', owner) AND pronamespace = 'lockstep'::regnamespace) THEN
    PERFORM lockstep.make_helper(owner);
  END IF;
END $$;

-- Tells the proxy of DDL that ran out of its sight.
CREATE OR REPLACE FUNCTION lockstep.report_ddl(tag text, temporary boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('lockstep.capture', true) = 'on' THEN
    RAISE INFO USING ERRCODE = 'LS003', MESSAGE = lockstep.own_mark(), DETAIL = tag,
      HINT = CASE WHEN temporary THEN 'temp' ELSE '' END;
  END IF;
END $$;

-- New tables get the triggers, altered ones keep them. What is dropped is reported by the other event trigger, which
-- alone knows whether it was temporary.
CREATE OR REPLACE FUNCTION lockstep.ddl_end() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  temporary boolean;
  rel regclass;
BEGIN
  IF TG_TAG NOT LIKE 'DROP %' THEN
    SELECT coalesce(bool_and(coalesce(schema_name = 'pg_temp', false)), false) INTO temporary
      FROM pg_event_trigger_ddl_commands();
    PERFORM lockstep.report_ddl(TG_TAG, temporary);
  END IF;
  IF TG_TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA') THEN
    FOR rel IN
      SELECT u FROM lockstep.unguarded() AS u
      WHERE u IN (SELECT objid FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass)
    LOOP
      PERFORM lockstep.guard(rel);
    END LOOP;
  END IF;
END $$;

-- A trigger of ours that was dropped while its table stays is put back. A helper whose owner has no table left goes,
-- so that it does not stand in the way of DROP ROLE.
CREATE OR REPLACE FUNCTION lockstep.ddl_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  temporary boolean;
  helper text;
  rel regclass;
BEGIN
  SELECT bool_and(is_temporary) INTO temporary FROM pg_event_trigger_dropped_objects() WHERE original;
  IF TG_TAG LIKE 'DROP %' THEN
    PERFORM lockstep.report_ddl(TG_TAG, temporary);
  END IF;
  IF temporary OR to_regprocedure('lockstep.capture_row()') IS NULL OR to_regclass('lockstep.control') IS NULL THEN
    RETURN;
  END IF;
  IF TG_TAG = 'DROP TRIGGER' THEN
    FOR rel IN SELECT u FROM lockstep.unguarded() AS u LOOP
      PERFORM lockstep.guard(rel);
    END LOOP;
  ELSIF TG_TAG IN ('DROP TABLE', 'DROP SCHEMA', 'DROP OWNED') THEN
    FOR helper IN
      SELECT p.proname FROM pg_proc p
      WHERE p.pronamespace = 'lockstep'::regnamespace AND p.proname ~ '^as_[0-9]+$' AND NOT EXISTS (
        SELECT FROM pg_class c WHERE c.relowner = p.proowner AND c.relkind = 'r' AND c.relpersistence <> 't')
    LOOP
      EXECUTE format('DROP FUNCTION IF EXISTS lockstep.%I(text, text[], text[])', helper);
    END LOOP;
  END IF;
END $$;

-- The last step of an installation: from here on DDL is watched. Apart from the rest, because a dump that is being
-- restored brings triggers and event triggers of its own and needs only the functions beforehand.
CREATE OR REPLACE FUNCTION lockstep.watch() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lockstep.capture = 'off' AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'lockstep_ddl_end') THEN
    CREATE EVENT TRIGGER lockstep_ddl_end ON ddl_command_end EXECUTE FUNCTION lockstep.ddl_end();
  END IF;
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'lockstep_ddl_drop') THEN
    CREATE EVENT TRIGGER lockstep_ddl_drop ON sql_drop EXECUTE FUNCTION lockstep.ddl_drop();
  END IF;
  ALTER EVENT TRIGGER lockstep_ddl_end ENABLE ALWAYS;
  ALTER EVENT TRIGGER lockstep_ddl_drop ENABLE ALWAYS;
END $$;

REVOKE ALL ON SCHEMA lockstep FROM PUBLIC;
GRANT USAGE ON SCHEMA lockstep TO PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA lockstep FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lockstep FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lockstep.record(text, bigint, bigint, text, bytea), lockstep.mark(text, text),
  lockstep.apply(text, text, text, text[], text[]), lockstep.sequences(text, text[]),
  lockstep.advance(text, text, bigint), lockstep.reset_sequence(text, text, bigint, boolean) TO PUBLIC;

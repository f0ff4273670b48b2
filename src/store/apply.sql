-- How changes reach this database: captured rows and the state of sequences.

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
EXCEPTION WHEN unique_violation OR duplicate_function THEN
  -- Another session has just made it.
  NULL;
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

-- The condition that finds the row t whose former self is s.o by the best key of a table; NULL when it has none. A
-- deferrable key may be there twice for a while, also between two batches of one statement, so the whole row (s.x) is
-- looked at too.
CREATE OR REPLACE FUNCTION lockstep.key_condition(rel oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (SELECT string_agg(format('t.%1$I OPERATOR(%2$I.%3$s) (s.o).%1$I', a.attname, n.nspname, o.oprname), ' AND ')
      || CASE WHEN bool_and(x.indimmediate) THEN ''
         ELSE ' AND pg_catalog.textin(pg_catalog.record_out(t.*)) OPERATOR(pg_catalog.=) s.x' END
  FROM (SELECT i.indimmediate, i.indkey, i.indclass, i.indnkeyatts FROM pg_index i
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
  JOIN pg_namespace n ON n.oid = o.oprnamespace);
END $$;

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
    RETURN format('UPDATE ONLY %1$s t SET %2$s FROM (SELECT u.o AS x, u.o::%1$s AS o, u.n::%1$s AS n '
      'FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS u(o, n) OFFSET 0) s WHERE %3$s', name, assignments, key);
  ELSIF key IS NOT NULL THEN
    RETURN format('DELETE FROM ONLY %1$s t USING (SELECT u.o AS x, u.o::%1$s AS o FROM pg_catalog.unnest($1) AS u(o) OFFSET 0) s '
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

-- Whether something would fire, or be checked by a trigger, when rows of a table change in a session that is not a
-- follower's. Our own triggers do not count: they look at lockstep.capture.
CREATE OR REPLACE FUNCTION lockstep.would_fire(rels oid[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN EXISTS (SELECT FROM pg_trigger WHERE tgrelid = ANY (rels) AND tgenabled = 'O')
    OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = ANY (rels) AND ev_enabled = 'O');
END $$;

-- One kind of change to one table, in a session where nothing fires.
CREATE OR REPLACE FUNCTION lockstep.apply_here(rel oid, op text, before text[], after text[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  CASE op
    WHEN 'I', 'D' THEN RETURN lockstep.run_as_owner(rel, lockstep.statement(rel, op), before, after);
    WHEN 'U' THEN RETURN lockstep.apply_updates(rel, before, after);
    WHEN 'T' THEN RETURN lockstep.apply_truncate(before);
  END CASE;
END $$;

CREATE OR REPLACE FUNCTION lockstep.apply_as_replica(rel oid, op text, before text[], after text[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica' AS $$
BEGIN
  RETURN lockstep.apply_here(rel, op, before, after);
END $$;

-- Applies captured rows: op I, U, D with rows as text, or T with the names of all tables truncated together in `old`
-- (or that of `rel` alone).
CREATE OR REPLACE FUNCTION lockstep.apply(token text, rel text, op text, old text[], new text[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off SET lockstep.capture = 'off'
SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET "TimeZone" = 'UTC' SET bytea_output = 'hex'
SET extra_float_digits = 1 SET lc_monetary = 'C' SET xmloption = 'content' SET array_nulls = on SET jit = off AS $$
DECLARE
  before text[] := old;
  after text[] := new;
  id oid;
  given bigint;
  touched bigint;
BEGIN
  PERFORM lockstep.check_token(token);
  IF starts_with(rel, E'\\x') THEN
    before := lockstep.plain_all(before);
    after := lockstep.plain_all(after);
  END IF;
  id := lockstep.plain(rel)::regclass;
  IF op = 'T' AND coalesce(cardinality(before), 0) = 0 THEN
    before := ARRAY[lockstep.plain(rel)];
  END IF;
  given := CASE op WHEN 'I' THEN cardinality(after) WHEN 'U' THEN greatest(cardinality(before), cardinality(after))
    ELSE cardinality(before) END;
  IF current_setting('session_replication_role') = 'replica'
      OR NOT lockstep.would_fire(CASE op WHEN 'T' THEN before::regclass[]::oid[] ELSE ARRAY[id] END) THEN
    touched := lockstep.apply_here(id, op, before, after);
  ELSE
    touched := lockstep.apply_as_replica(id, op, before, after);
  END IF;
  IF touched IS DISTINCT FROM given THEN
    RAISE EXCEPTION 'lockstep: % of % rows of % were found', touched, given, id::regclass USING ERRCODE = 'LS001';
  END IF;
  RETURN touched;
END $$;

-- Makes this session one of a follower, or of a leader again. In a follower's session no trigger fires and no foreign key
-- is checked, since the leader has done both. `apply` sees to that by itself too where something would fire, but
-- switching for a single call throws away every plan of the session, twice.
CREATE OR REPLACE FUNCTION lockstep.follow(token text, follower boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM lockstep.check_token(token);
  PERFORM set_config('session_replication_role', CASE WHEN follower THEN 'replica' ELSE 'origin' END, false);
END $$;

-- Where sequences stand. Without names: all of the database that are not temporary. Names come back in quotes always,
-- whether they need them or not, so that they compare.
-- Its columns have changed over time, and a function's columns cannot be replaced.
DROP FUNCTION IF EXISTS lockstep.sequences(text, text[]);
CREATE FUNCTION lockstep.sequences(token text, names text[])
RETURNS TABLE (name text, value bigint, called boolean, increment bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  id oid;
BEGIN
  PERFORM lockstep.check_token(token);
  FOR id, increment, name IN
    SELECT c.oid, q.seqincrement, format('"%s"."%s"', replace(n.nspname, '"', '""'), replace(c.relname, '"', '""'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_sequence q ON q.seqrelid = c.oid
    WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname <> 'lockstep'
      AND (names IS NULL OR c.oid IN (SELECT to_regclass(lockstep.plain(x)) FROM unnest(names) AS u(x)))
    ORDER BY 3
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
  PERFORM setval(s.seqrelid, least(greatest(value, s.seqmin), s.seqmax), called)
    FROM pg_sequence s WHERE s.seqrelid = lockstep.plain(name)::regclass;
END $$;

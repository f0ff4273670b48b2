-- What keeps the triggers on every table, and the rights of all functions.

-- Tables that need the triggers and lack them, or have them disabled; of the database, or among some.
CREATE OR REPLACE FUNCTION lockstep.unguarded(among oid[] DEFAULT NULL) RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE (among IS NULL OR c.oid = ANY (among)) AND c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('lockstep', 'pg_catalog', 'information_schema')
    AND 2 > (SELECT count(*) FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgenabled = 'A'
             AND t.tgname IN ('00_lockstep_capture', '00_lockstep_truncate')
             AND t.tgfoid = 'lockstep.capture_row()'::regprocedure)
$$;

-- Makes the helpers of all owners that have none yet. Here and not when rows come, so that two transactions that bring
-- rows do not make the same one at the same time.
CREATE OR REPLACE FUNCTION lockstep.make_helpers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM lockstep.make_helper(o.relowner)
    FROM (SELECT DISTINCT c.relowner FROM pg_class c WHERE c.relkind = 'r' AND c.relpersistence <> 't') o
    JOIN pg_roles r ON r.oid = o.relowner
    WHERE NOT r.rolsuper AND NOT EXISTS (SELECT FROM pg_proc p
      WHERE p.proname = concat('as_', o.relowner) AND p.pronamespace = 'lockstep'::regnamespace);
END $$;

-- Puts the triggers on one table. The capture is off while we do, so that our own DDL is not reported to the proxy.
CREATE OR REPLACE FUNCTION lockstep.guard(rel regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lockstep.capture = 'off' AS $$
DECLARE
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
  PERFORM lockstep.make_helpers();
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

-- Tells the proxy of a table that got rows which no trigger has seen: it was made from a query, or rewritten. Its name is
-- in hexadecimal, so that no client_encoding stands in its way.
CREATE OR REPLACE FUNCTION lockstep.report_filled(rel oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('lockstep.capture', true) = 'on' THEN
    RAISE INFO USING ERRCODE = 'LS003', MESSAGE = lockstep.own_mark(), HINT = 'filled', DETAIL = (
      SELECT concat(E'\\x', encode(convert_to(format('%I.%I', n.nspname, c.relname), 'UTF8'), 'hex'))
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel);
  END IF;
END $$;

CREATE OR REPLACE FUNCTION lockstep.ddl_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM lockstep.report_filled(pg_event_trigger_table_rewrite_oid());
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
  IF TG_TAG IN ('CREATE TABLE AS', 'SELECT INTO', 'CREATE MATERIALIZED VIEW', 'REFRESH MATERIALIZED VIEW') THEN
    PERFORM lockstep.report_filled(objid)
      FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass AND schema_name <> 'pg_temp';
  END IF;
  IF TG_TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA') THEN
    FOR rel IN
      SELECT lockstep.unguarded(coalesce(array_agg(objid), '{}'))
      FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass
    LOOP
      PERFORM lockstep.guard(rel);
    END LOOP;
  END IF;
  IF TG_TAG IN ('ALTER TABLE', 'REASSIGN OWNED') THEN
    PERFORM lockstep.make_helpers();
  END IF;
END $$;

-- Removes helpers whose owner has no table left, so that they do not stand in the way of DROP ROLE. The capture is off
-- while we do, so that our own DDL is not reported to the proxy.
CREATE OR REPLACE FUNCTION lockstep.sweep() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lockstep.capture = 'off' AS $$
DECLARE
  helper text;
BEGIN
  FOR helper IN
    SELECT p.proname FROM pg_proc p
    WHERE p.pronamespace = 'lockstep'::regnamespace AND p.proname ~ '^as_[0-9]+$' AND NOT EXISTS (
      SELECT FROM pg_class c WHERE c.relowner = p.proowner AND c.relkind = 'r' AND c.relpersistence <> 't')
  LOOP
    EXECUTE format('DROP FUNCTION IF EXISTS lockstep.%I(text, text[], text[])', helper);
  END LOOP;
END $$;

-- A trigger of ours that was dropped while its table stays is put back.
CREATE OR REPLACE FUNCTION lockstep.ddl_drop() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  temporary boolean;
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
    PERFORM lockstep.sweep();
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
  IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'lockstep_ddl_rewrite') THEN
    CREATE EVENT TRIGGER lockstep_ddl_rewrite ON table_rewrite EXECUTE FUNCTION lockstep.ddl_rewrite();
  END IF;
  ALTER EVENT TRIGGER lockstep_ddl_end ENABLE ALWAYS;
  ALTER EVENT TRIGGER lockstep_ddl_rewrite ENABLE ALWAYS;
  ALTER EVENT TRIGGER lockstep_ddl_drop ENABLE ALWAYS;
END $$;

REVOKE ALL ON SCHEMA lockstep FROM PUBLIC;
GRANT USAGE ON SCHEMA lockstep TO PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA lockstep FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lockstep FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lockstep.record(text, bigint, bigint, text, bytea), lockstep.mark(text, text),
  lockstep.fingerprint(text, text[]), lockstep.apply(text, text, text, text[], text[]), lockstep.sequences(text, text[]),
  lockstep.follow(text, boolean), lockstep.advance(text, text, bigint), lockstep.reset_sequence(text, text, bigint, boolean) TO PUBLIC;

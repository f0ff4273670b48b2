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

-- Raises unless the caller knows the token.
CREATE OR REPLACE FUNCTION lockstep.check_token(given text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT coalesce((SELECT s.digest = sha256(convert_to(given, 'UTF8')) FROM lockstep.secret s), false) THEN
    RAISE EXCEPTION 'lockstep: only the proxy may call this' USING ERRCODE = '42501';
  END IF;
END $$;

-- The other half of the \x rule above.
CREATE OR REPLACE FUNCTION lockstep.plain(t text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN pg_catalog.starts_with(t, E'\\x')
    THEN pg_catalog.convert_from(pg_catalog.decode(pg_catalog.substr(t, 3), 'hex'), 'UTF8') ELSE t END
$$;

CREATE OR REPLACE FUNCTION lockstep.plain_all(t text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE AS $$
  SELECT pg_catalog.array_agg(lockstep.plain(x) ORDER BY i)
  FROM pg_catalog.unnest(t) WITH ORDINALITY AS u(x, i)
$$;

-- Writes the journal's row of this transaction. Without a user it is the one who is logged in.
CREATE OR REPLACE FUNCTION lockstep.record(token text, seq bigint, id bigint, usr text, entry bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  -- What `check_token` does, in the same statement, and every name in full instead of a search_path of its own, which
  -- would cost as much as the rest: this runs once for every write on every server.
  INSERT INTO lockstep.journal
    SELECT record.seq, record.id, pg_catalog.clock_timestamp(),
      CASE WHEN usr IS NULL THEN session_user
        WHEN pg_catalog.starts_with(usr, E'\\x') THEN lockstep.plain(usr) ELSE usr END,
      record.entry
    FROM lockstep.secret s
    WHERE s.digest OPERATOR(pg_catalog.=) pg_catalog.sha256(pg_catalog.convert_to(record.token, 'UTF8'));
  IF NOT FOUND THEN
    RAISE EXCEPTION 'lockstep: only the proxy may call this' USING ERRCODE = '42501';
  END IF;
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

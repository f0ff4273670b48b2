-- What a transaction has made of the catalog, in one word, for a statement that every backend runs for itself: the whole
-- schema, values that stand in the catalog for rows that lack them, and the content of tables that got rows which no
-- trigger has seen.
CREATE OR REPLACE FUNCTION lockstep.fingerprint(token text, filled text[]) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off SET lockstep.capture = 'off'
SET "DateStyle" = 'ISO, MDY' SET "IntervalStyle" = 'postgres' SET "TimeZone" = 'UTC' SET bytea_output = 'hex'
SET extra_float_digits = 1 SET lc_monetary = 'C' SET quote_all_identifiers = off SET jit = off AS $fingerprint$
DECLARE
  word text;
  rel regclass;
  part text;
BEGIN
  PERFORM lockstep.check_token(token);
  IF EXISTS (SELECT FROM pg_trigger WHERE tgdeferrable AND NOT tgisinternal) THEN
    RAISE EXCEPTION 'DDL inside a function where constraint triggers may run at the commit'
      USING ERRCODE = '0A000', HINT = 'Run the DDL as a statement of its own.';
  END IF;
  SELECT md5(string_agg(concat_ws(' ', x.kind, x.name, x.definition), E'\n'
      ORDER BY x.kind COLLATE "C", x.name COLLATE "C", x.definition COLLATE "C")) INTO word FROM (

-- lockstep schema 3
--
-- What every backend carries: the control row, the secrets, the journal, and the functions through which a proxy that
-- knows the token writes. apply.sql and watch.sql belong to it and follow it. Running them again upgrades the functions
-- and keeps the data.
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
COMMENT ON SCHEMA lockstep IS 'lockstep schema 3';


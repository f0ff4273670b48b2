
  UNION ALL
  SELECT 'missing', concat(a.attrelid::regclass, '.', quote_ident(a.attname)), a.attmissingval::text
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.atthasmissing AND c.relpersistence <> 't'
      -- Written by this transaction: what was there before may have come by another way.
      AND age(a.xmin) <= age(pg_current_xact_id()::xid)
  UNION ALL
  -- Roles are no database's own, and each server may have some of its own: those that this transaction has written.
  SELECT 'role', rolname, concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
      rolbypassrls, rolconnlimit, rolpassword, rolvaliduntil)
    FROM pg_authid WHERE age(xmin) <= age(pg_current_xact_id()::xid)
  UNION ALL
  SELECT 'membership', pg_get_userbyid(member), concat_ws(' ', pg_get_userbyid(roleid), admin_option)
    FROM pg_auth_members WHERE age(xmin) <= age(pg_current_xact_id()::xid)
  UNION ALL
  SELECT 'role setting', pg_get_userbyid(setrole), setconfig::text
    FROM pg_db_role_setting WHERE age(xmin) <= age(pg_current_xact_id()::xid)
  ) x;
  FOR rel IN SELECT DISTINCT to_regclass(lockstep.plain(f)) FROM unnest(filled) AS u(f) WHERE to_regclass(lockstep.plain(f)) IS NOT NULL LOOP
    EXECUTE format('SELECT concat_ws('' '', %L, count(*), sum(hashtextextended(textin(record_out(t.*)), 0)::numeric)) FROM ONLY %s t',
      rel, rel) INTO part;
    word := md5(concat(word, part));
  END LOOP;
  RETURN word;
END $fingerprint$;

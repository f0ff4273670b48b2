-- Everything that makes up a schema, one text for each object: kind, name, definition. Run with search_path =
-- pg_catalog, so that names come out in full. Left out: schema lockstep, our triggers, and what extensions brought
-- (the version of the extension stands for it).
WITH spaces AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
  WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'lockstep')
), brought AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), relations AS (
  SELECT c.*, format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN spaces n ON n.oid = c.relnamespace
  WHERE c.relpersistence <> 't' AND (c.tableoid, c.oid) NOT IN (SELECT classid, objid FROM brought)
)
SELECT 'schema' AS kind, quote_ident(nspname) AS name, concat('owner ', pg_get_userbyid(nspowner)) AS definition FROM spaces
UNION ALL
SELECT CASE relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'view'
    WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' ELSE 'composite type' END, name,
  concat_ws(' ', relkind, relpersistence, 'owner ' || pg_get_userbyid(relowner), reloptions::text,
    CASE WHEN relrowsecurity THEN 'row security' END, CASE WHEN relforcerowsecurity THEN 'forced' END,
    CASE WHEN relispartition THEN pg_get_expr(relpartbound, oid) END,
    CASE relkind WHEN 'p' THEN pg_get_partkeydef(oid) WHEN 'v' THEN pg_get_viewdef(oid) WHEN 'm' THEN pg_get_viewdef(oid) END,
    (SELECT 'inherits ' || string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno) FROM pg_inherits WHERE inhrelid = oid),
    (SELECT concat_ws(' ', 'sequence', seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle)
     FROM pg_sequence WHERE seqrelid = oid),
    (SELECT 'rights ' || string_agg(concat_ws('/', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END,
        privilege_type, is_grantable), ', '
        ORDER BY CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END COLLATE "C", privilege_type COLLATE "C")
      FROM aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner)))))
  FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
UNION ALL
SELECT 'column', concat(r.name, '.', quote_ident(a.attname)), concat_ws(' ',
    -- The place among the columns that are there: those that were dropped are nobody's business.
    row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum),
    format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
    CASE WHEN a.attcollation <> 0 AND a.attcollation <> t.typcollation THEN 'collate ' || a.attcollation::regcollation END,
    CASE a.attidentity WHEN '' THEN NULL ELSE 'identity ' || a.attidentity::text END,
    CASE a.attgenerated WHEN '' THEN 'default' ELSE 'generated' END || ' ' || pg_get_expr(d.adbin, d.adrelid), a.attacl::text)
  FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
UNION ALL
SELECT 'constraint', concat(r.name, '.', quote_ident(c.conname)), pg_get_constraintdef(c.oid)
  FROM pg_constraint c JOIN relations r ON r.oid = c.conrelid WHERE c.contype <> 'n'
UNION ALL
SELECT 'index', i.indexrelid::regclass::text, concat_ws(' ', pg_get_indexdef(i.indexrelid),
    CASE WHEN NOT i.indisvalid THEN 'invalid' END, CASE WHEN i.indisreplident THEN 'replica identity' END)
  FROM pg_index i JOIN relations r ON r.oid = i.indrelid
UNION ALL
SELECT 'trigger', concat(r.name, '.', quote_ident(t.tgname)), concat_ws(' ', t.tgenabled, pg_get_triggerdef(t.oid))
  FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid
  WHERE NOT t.tgisinternal AND t.tgname NOT IN ('00_lockstep_capture', '00_lockstep_truncate')
UNION ALL
SELECT 'rule', concat(r.name, '.', quote_ident(w.rulename)), concat_ws(' ', w.ev_enabled, pg_get_ruledef(w.oid))
  FROM pg_rewrite w JOIN relations r ON r.oid = w.ev_class WHERE w.rulename <> '_RETURN'
UNION ALL
SELECT 'policy', concat(r.name, '.', quote_ident(p.polname)), concat_ws(' ', p.polcmd, p.polpermissive,
    (SELECT string_agg(CASE x WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x) END, ', '
       ORDER BY CASE x WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x) END COLLATE "C") FROM unnest(p.polroles) x),
    pg_get_expr(p.polqual, p.polrelid), '/', pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p JOIN relations r ON r.oid = p.polrelid
UNION ALL
SELECT 'function', concat(n.nspname, '.', p.proname, '(', pg_get_function_identity_arguments(p.oid), ')'),
  concat_ws(' ', 'owner', pg_get_userbyid(p.proowner), CASE p.prokind WHEN 'a' THEN concat(p.prorettype::regtype, ' aggregate ',
    (SELECT concat_ws(' ', aggtransfn, aggfinalfn, aggtranstype::regtype, agginitval) FROM pg_aggregate WHERE aggfnoid = p.oid))
    ELSE pg_get_functiondef(p.oid) END)
  FROM pg_proc p JOIN spaces n ON n.oid = p.pronamespace
  WHERE ('pg_proc'::regclass, p.oid) NOT IN (SELECT classid, objid FROM brought)
UNION ALL
SELECT 'type', format('%I.%I', n.nspname, t.typname), concat_ws(' ', t.typtype, 'owner', pg_get_userbyid(t.typowner),
    (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid),
    CASE t.typtype WHEN 'd' THEN concat_ws(' ', format_type(t.typbasetype, t.typtypmod),
      CASE WHEN t.typnotnull THEN 'not null' END, t.typdefault) END,
    (SELECT string_agg(concat_ws(' ', conname, pg_get_constraintdef(oid)), ', ' ORDER BY conname)
     FROM pg_constraint WHERE contypid = t.oid),
    (SELECT rngsubtype::regtype::text FROM pg_range WHERE rngtypid = t.oid))
  FROM pg_type t JOIN spaces n ON n.oid = t.typnamespace
  WHERE t.typtype IN ('e', 'd', 'r', 'b') AND t.typcategory <> 'A'
    AND ('pg_type'::regclass, t.oid) NOT IN (SELECT classid, objid FROM brought)
UNION ALL
SELECT 'extension', extname, extversion FROM pg_extension
UNION ALL
SELECT 'event trigger', evtname, concat_ws(' ', evtevent, evtenabled, evtfoid::regproc, evttags::text)
  FROM pg_event_trigger WHERE evtname !~ '^lockstep_ddl_'

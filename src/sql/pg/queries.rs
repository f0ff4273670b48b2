//! What to ask a backend about itself.

/// Name and text. They are run with `search_path = pg_catalog`, every column comes as text, and
/// they must work on every supported version.
pub(super) const QUERIES: &[(&str, &str)] = &[
    ("relations", RELATIONS),
    ("columns", COLUMNS),
    ("sequences", SEQUENCES),
    ("keys", KEYS),
    ("references", REFERENCES),
    ("inherits", "SELECT inhparent::text, inhrelid::text FROM pg_inherits"),
    ("checks", CHECKS),
    ("policies", POLICIES),
    ("views", VIEWS),
    ("triggers", TRIGGERS),
    ("builtins", BUILTINS),
    ("functions", FUNCTIONS),
    ("operators", OPERATORS),
    ("types", TYPES),
    ("casts", CASTS),
    ("system", SYSTEM),
    ("roles", ROLES),
    ("deferrable", "SELECT '1' FROM pg_constraint WHERE condeferrable LIMIT 1"),
];

/// oid, schema, name, quoted, kind, row security, rules, row security for the owner too, owner,
/// whether all who may write rows may also read them
const RELATIONS: &str = "
SELECT c.oid::text, n.nspname::text, c.relname::text,
       quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text,
       c.relrowsecurity::text,
       EXISTS (SELECT FROM pg_rewrite r
               WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')::text,
       (c.relrowsecurity AND c.relforcerowsecurity)::text,
       (SELECT rolname::text FROM pg_roles WHERE oid = c.relowner),
       (NOT EXISTS (
          SELECT FROM aclexplode(c.relacl) w
          WHERE w.privilege_type IN ('INSERT', 'UPDATE') AND NOT EXISTS (
            SELECT FROM aclexplode(c.relacl) r
            WHERE r.grantee = w.grantee AND r.privilege_type = 'SELECT'))
        AND NOT EXISTS (SELECT FROM pg_attribute a
                        WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL)
        AND NOT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
                        WHERE g.rolname = 'pg_write_all_data'))::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'lockstep')
  AND n.nspname !~ '^pg_(toast_)?temp_'
ORDER BY n.nspname, c.relname";

/// relation, name, type's schema, type's name, not null, default, identity, generated, sequence
const COLUMNS: &str = "
SELECT a.attrelid::text, a.attname::text, tn.nspname::text, t.typname::text, a.attnotnull::text,
       pg_get_expr(d.adbin, d.adrelid), a.attidentity::text, a.attgenerated::text,
       (SELECT quote_ident(sn.nspname) || '.' || quote_ident(s.relname)
        FROM pg_depend p
        JOIN pg_class s ON s.oid = p.objid AND s.relkind = 'S'
        JOIN pg_namespace sn ON sn.oid = s.relnamespace
        WHERE p.classid = 'pg_class'::regclass AND p.refclassid = 'pg_class'::regclass
          AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum AND p.deptype = 'i'
        LIMIT 1)
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'f')
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_namespace tn ON tn.oid = t.typnamespace
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'lockstep')
  AND n.nspname !~ '^pg_(toast_)?temp_'
ORDER BY a.attrelid, a.attnum";

/// quoted, step
const SEQUENCES: &str = "
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), q.seqincrement::text
FROM pg_sequence q JOIN pg_class c ON c.oid = q.seqrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_(toast_)?temp_'
ORDER BY 1";

/// relation, index, primary, column, whether it compares as the column does
const KEYS: &str = "
SELECT x.indrelid::text, x.indexrelid::text, x.indisprimary::text, a.attname::text,
       (x.indcollation[k.pos - 1] = a.attcollation)::text
FROM pg_index x
JOIN pg_class c ON c.oid = x.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k (attnum, pos)
JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.attnum
WHERE x.indisunique AND x.indimmediate AND x.indisvalid AND x.indisready
  AND x.indpred IS NULL AND x.indexprs IS NULL AND k.pos <= x.indnkeyatts
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'lockstep')
  AND n.nspname !~ '^pg_(toast_)?temp_'
ORDER BY x.indrelid, x.indisprimary DESC, x.indexrelid, k.pos";

/// constraint, referenced relation, referencing relation, acts on delete, acts on update, column
const REFERENCES: &str = "
SELECT f.oid::text, f.confrelid::text, f.conrelid::text,
       (f.confdeltype IN ('c', 'n', 'd'))::text, (f.confupdtype IN ('c', 'n', 'd'))::text,
       a.attname::text
FROM pg_constraint f
CROSS JOIN LATERAL unnest(f.confkey) AS k (attnum)
JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum
WHERE f.contype = 'f'
  AND (f.confdeltype IN ('c', 'n', 'd') OR f.confupdtype IN ('c', 'n', 'd'))
ORDER BY f.oid";

/// relation (or 0), domain (or 0), condition
const CHECKS: &str = "
SELECT conrelid::text, contypid::text, pg_get_expr(conbin, conrelid)
FROM pg_constraint
WHERE contype = 'c' AND oid >= 16384
ORDER BY oid";

/// relation, condition for rows seen, condition for rows written
const POLICIES: &str = "
SELECT polrelid::text, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
FROM pg_policy
ORDER BY oid";

/// relation, query
const VIEWS: &str = "
SELECT c.oid::text, pg_get_viewdef(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'lockstep')
  AND n.nspname !~ '^pg_(toast_)?temp_'
ORDER BY c.oid";

/// relation, function's schema, function's name, events as bits. Internal triggers are those of
/// constraints; the copies that partitions get of their parent's triggers count as the user's own.
const TRIGGERS: &str = "
SELECT t.tgrelid::text, n.nspname::text, p.proname::text, t.tgtype::text
FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE (NOT t.tgisinternal OR (t.tgparentid <> 0 AND t.tgconstraint = 0))
  AND t.tgname NOT IN ('00_lockstep_capture', '00_lockstep_truncate')
  AND t.tgenabled <> 'D'
ORDER BY t.oid";

/// name, worst volatility, whether an overload takes a date/time, whether all are plain functions,
/// fewest and most arguments
const BUILTINS: &str = "
WITH times AS (
  SELECT array_agg(oid) AS types FROM pg_type
  WHERE oid < 16384 AND typname IN (
    'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'tsrange', 'tstzrange', 'daterange',
    'tsmultirange', 'tstzmultirange', 'datemultirange', '_date', '_time', '_timetz',
    '_timestamp', '_timestamptz', '_tsrange', '_tstzrange', '_daterange'))
SELECT p.proname::text,
       CASE WHEN bool_or(p.provolatile = 'v') THEN 'v'
            WHEN bool_or(p.provolatile = 's') THEN 's' ELSE 'i' END,
       bool_or(p.proargtypes::oid[] && times.types)::text,
       bool_and(p.prokind = 'f' AND NOT p.proretset)::text,
       (p.pronargs - p.pronargdefaults)::text,
       (CASE WHEN p.provariadic = 0 THEN p.pronargs ELSE 1000 END)::text
FROM pg_proc p CROSS JOIN times
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.oid < 16384
GROUP BY p.proname, 5, 6
ORDER BY p.proname, 5, 6";

/// schema, name, volatility, extension, takes a date/time, plain function, language, body, fewest
/// and most arguments
const FUNCTIONS: &str = "
WITH times AS (
  SELECT array_agg(oid) AS types FROM pg_type
  WHERE oid < 16384 AND typname IN (
    'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'tsrange', 'tstzrange', 'daterange',
    'tsmultirange', 'tstzmultirange', 'datemultirange', '_date', '_time', '_timetz',
    '_timestamp', '_timestamptz', '_tsrange', '_tstzrange', '_daterange'))
SELECT n.nspname::text, p.proname::text,
       CASE WHEN p.prokind <> 'a' THEN p.provolatile::text
            ELSE (SELECT CASE WHEN bool_or(f.provolatile = 'v') THEN 'v'
                              WHEN bool_or(f.provolatile = 's') THEN 's' ELSE 'i' END
                  FROM pg_aggregate g
                  JOIN pg_proc f ON f.oid IN (g.aggtransfn, g.aggfinalfn, g.aggcombinefn,
                                              g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn)
                  WHERE g.aggfnoid = p.oid)
       END,
       (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
          AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' LIMIT 1),
       (p.proargtypes::oid[] && times.types)::text,
       (p.prokind = 'f' AND NOT p.proretset)::text,
       l.lanname::text,
       CASE WHEN l.lanname IN ('sql', 'plpgsql') AND p.prokind IN ('f', 'p')
            THEN CASE WHEN p.prosrc <> '' THEN p.prosrc ELSE pg_get_functiondef(p.oid) END END,
       (p.pronargs - p.pronargdefaults)::text,
       (CASE WHEN p.provariadic = 0 THEN p.pronargs ELSE 1000 END)::text
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_language l ON l.oid = p.prolang
CROSS JOIN times
WHERE NOT (p.pronamespace = 'pg_catalog'::regnamespace AND p.oid < 16384)
  AND n.nspname <> 'lockstep' AND n.nspname !~ '^pg_(toast_)?temp_'
ORDER BY n.nspname, p.proname, p.oid";

/// name, worst of PostgreSQL's own without dates and times, worst of the users', whether a user
/// made one on PostgreSQL's own types
const OPERATORS: &str = "
WITH times AS (
  SELECT array_agg(oid) AS types FROM pg_type
  WHERE oid < 16384 AND typname IN (
    'date', 'time', 'timetz', 'timestamp', 'timestamptz', 'tsrange', 'tstzrange', 'daterange',
    'tsmultirange', 'tstzmultirange', 'datemultirange', 'interval')),
all_operators AS (
  SELECT o.oprname, p.provolatile, o.oid < 16384 AS builtin,
         ARRAY[o.oprleft, o.oprright] && times.types AS on_time,
         o.oprleft < 16384 AND o.oprright < 16384 AS on_builtin
  FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode CROSS JOIN times)
SELECT oprname::text,
       CASE WHEN bool_or(provolatile = 'v' AND builtin AND NOT on_time) THEN 'v'
            WHEN bool_or(provolatile = 's' AND builtin AND NOT on_time) THEN 's' ELSE 'i' END,
       CASE WHEN bool_or(provolatile = 'v' AND NOT builtin) THEN 'v'
            WHEN bool_or(provolatile = 's' AND NOT builtin) THEN 's' ELSE 'i' END,
       bool_or(NOT builtin AND on_builtin)::text
FROM all_operators
GROUP BY oprname
ORDER BY oprname";

/// oid, schema, name, kind, schema and name of the type below (of a domain, or an array's element),
/// input function's volatility, default
const TYPES: &str = "
SELECT t.oid::text, n.nspname::text, t.typname::text,
       CASE WHEN t.typcategory = 'A' THEN 'a' ELSE t.typtype::text END,
       bn.nspname::text, b.typname::text, i.provolatile::text,
       CASE WHEN t.typtype = 'd' THEN pg_get_expr(t.typdefaultbin, 0) END
FROM pg_type t
JOIN pg_namespace n ON n.oid = t.typnamespace
JOIN pg_proc i ON i.oid = t.typinput
LEFT JOIN pg_type b ON b.oid = CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE t.typbasetype END
LEFT JOIN pg_namespace bn ON bn.oid = b.typnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'lockstep')
  AND n.nspname !~ '^pg_(toast_)?temp_'
  AND (t.typtype IN ('d', 'e') OR (t.typtype = 'b' AND t.typcategory = 'A')
       OR (t.typtype = 'b' AND t.typrelid = 0))
ORDER BY n.nspname, t.typname";

/// The volatility of casts that users made with functions that are not immutable.
const CASTS: &str = "
SELECT p.provolatile::text
FROM pg_cast c JOIN pg_proc p ON p.oid = c.castfunc
WHERE c.oid >= 16384 AND p.provolatile <> 'i'";

/// The relations of pg_catalog.
const SYSTEM: &str = "
SELECT relname::text FROM pg_class
WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v', 'm')
ORDER BY relname";

/// name, whether it may log in, until when its password is good in seconds of the Unix epoch
const ROLES: &str = "
SELECT rolname::text, rolcanlogin::text,
       CASE WHEN isfinite(rolvaliduntil)
            THEN floor(extract(epoch FROM rolvaliduntil))::bigint::text END
FROM pg_roles WHERE rolname !~ '^pg_'
ORDER BY 1";

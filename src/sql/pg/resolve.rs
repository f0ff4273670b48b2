//! What a name stands for, under the session's search path.

use pg_query::protobuf::{RangeVar, TypeName};

use super::catalog::{Catalog, Function, Relation, TypeClass, UserType};
use super::names;
use super::scope::Scope;

/// Names are looked up in what is known of the database, the way the session would.
#[derive(Clone, Copy)]
pub(super) struct Names<'c> {
    pub catalog: &'c Catalog,
    pub scope: &'c Scope,
}

/// What a relation's name stands for.
pub(super) enum Found<'c> {
    /// A temporary relation of this session.
    Temp,
    /// One of PostgreSQL's own.
    System,
    /// One of the proxy's own.
    Lockstep,
    Known(&'c Relation),
    /// Not in the catalog, or not to be told which.
    Unknown,
}

impl<'c> Names<'c> {
    /// A relation named in a statement.
    pub(super) fn relation(&self, var: &RangeVar) -> Found<'c> {
        self.relation_named(&var.schemaname, &var.relname)
    }

    /// A relation by its schema (empty where not given) and name.
    pub(super) fn relation_named(&self, schema: &str, name: &str) -> Found<'c> {
        if !schema.is_empty() {
            return match schema {
                "pg_catalog" | "information_schema" | "pg_toast" => Found::System,
                "lockstep" => Found::Lockstep,
                _ if is_temp_schema(schema) => Found::Temp,
                _ => self.in_schema(schema, name),
            };
        }
        let temp = self.scope.temp_tables.contains(name);
        let Some(path) = &self.scope.search_path else {
            // Temporary relations come first under any usual path, yet not under every one.
            return Found::Unknown;
        };
        if temp {
            // A path that names pg_temp may put another relation in front of it.
            let first = path.iter().find(|s| *s == "pg_temp" || self.holds(s, name));
            return match first {
                Some(schema) if schema != "pg_temp" && path.iter().any(|s| s == "pg_temp") => {
                    Found::Unknown
                }
                _ => Found::Temp,
            };
        }
        let explicit = path.iter().any(|schema| schema == "pg_catalog");
        if !explicit && self.catalog.system.contains(name) {
            return Found::System;
        }
        for schema in path {
            if schema == "pg_catalog" && self.catalog.system.contains(name) {
                return Found::System;
            }
            if schema == "lockstep" || schema == "information_schema" {
                // Their relations are not in the catalog: one of this name might be there.
                return Found::Unknown;
            }
            if let Found::Known(relation) = self.in_schema(self.real_schema(schema), name) {
                return Found::Known(relation);
            }
        }
        Found::Unknown
    }

    fn holds(&self, schema: &str, name: &str) -> bool {
        matches!(self.in_schema(self.real_schema(schema), name), Found::Known(_))
    }

    fn real_schema<'s>(&'s self, entry: &'s str) -> &'s str {
        if entry == "$user" { &self.scope.user } else { entry }
    }

    fn in_schema(&self, schema: &str, name: &str) -> Found<'c> {
        self.catalog
            .relations
            .get(name)
            .and_then(|all| all.iter().find(|relation| relation.schema == schema))
            .map_or(Found::Unknown, Found::Known)
    }

    /// Whether a new relation of this name would be temporary.
    pub(super) fn makes_temp(&self, var: &RangeVar) -> bool {
        var.relpersistence == "t"
            || is_temp_schema(&var.schemaname)
            || (var.schemaname.is_empty()
                && self
                    .scope
                    .search_path
                    .as_ref()
                    .and_then(|path| path.first())
                    .is_some_and(|first| is_temp_schema(first)))
    }

    /// Whether a name stands for a temporary relation.
    pub(super) fn is_temp(&self, var: &RangeVar) -> bool {
        matches!(self.relation(var), Found::Temp)
    }

    /// Every function that a call of this name with so many arguments (None: not to be told) could
    /// reach. The server picks among all schemas of the path by the types, so any of them counts.
    pub(super) fn functions<'s>(
        &self,
        schema: &'s str,
        name: &str,
        args: Option<usize>,
    ) -> impl Iterator<Item = &'c Function> + use<'c, 's> {
        let names = *self;
        let all = self.catalog.functions.get(name).map_or(&[][..], Vec::as_slice);
        all.iter().filter(move |function| {
            args.is_none_or(|count| function.args.contains(&count))
                && names.visible(schema, &function.schema)
        })
    }

    /// Every type, not PostgreSQL's own, that a name could stand for.
    pub(super) fn types<'s>(
        &self,
        schema: &'s str,
        name: &str,
    ) -> impl Iterator<Item = &'c UserType> + use<'c, 's> {
        let names = *self;
        let all = self.catalog.types.get(name).map_or(&[][..], Vec::as_slice);
        all.iter().filter(move |kind| names.visible(schema, &kind.schema))
    }

    fn visible(&self, wanted: &str, actual: &str) -> bool {
        if !wanted.is_empty() {
            return wanted == actual;
        }
        match &self.scope.search_path {
            None => true,
            Some(path) => {
                actual == "pg_catalog" || path.iter().any(|entry| self.real_schema(entry) == actual)
            }
        }
    }

    /// How far the text of a type can be trusted.
    pub(super) fn type_class(&self, type_name: &TypeName) -> TypeClass {
        if type_name.setof || type_name.pct_type {
            return TypeClass::Other;
        }
        let Some((schema, name)) = names::qualified(&type_name.names) else {
            return TypeClass::Other;
        };
        self.type_named(schema, name)
    }

    /// The same by name.
    pub(super) fn type_named(&self, schema: &str, name: &str) -> TypeClass {
        if schema.is_empty() || schema == "pg_catalog" {
            let builtin = builtin_type(name);
            if builtin != TypeClass::Other || schema == "pg_catalog" {
                return builtin;
            }
        }
        let mut found = None;
        for kind in self.types(schema, name) {
            match found {
                None => found = Some(kind.class),
                Some(class) if class == kind.class => {}
                Some(_) => return TypeClass::Other,
            }
        }
        found.unwrap_or(TypeClass::Other)
    }
}

/// `pg_temp`, or the schema behind it.
pub(super) fn is_temp_schema(schema: &str) -> bool {
    schema == "pg_temp" || schema.starts_with("pg_temp_")
}

/// PostgreSQL's own types. Arrays of a type are as far to be trusted as the type.
pub(super) fn builtin_type(name: &str) -> TypeClass {
    let element = name.strip_prefix('_').unwrap_or(name);
    match element {
        "bool" | "int2" | "int4" | "int8" | "float4" | "float8" | "numeric" | "text"
        | "varchar" | "bpchar" | "char" | "name" | "bytea" | "uuid" | "json" | "jsonb"
        | "jsonpath" | "inet" | "cidr" | "macaddr" | "macaddr8" | "bit" | "varbit" | "oid"
        | "interval" | "point" | "line" | "lseg" | "box" | "path" | "polygon" | "circle"
        | "tsvector" | "tsquery" | "pg_lsn" | "int4range" | "int8range" | "numrange"
        | "int4multirange" | "int8multirange" | "nummultirange" => TypeClass::Plain,
        "date" | "time" | "timetz" | "timestamp" | "timestamptz" | "tsrange" | "tstzrange"
        | "daterange" | "tsmultirange" | "tstzmultirange" | "datemultirange" => TypeClass::Time,
        _ => TypeClass::Other,
    }
}

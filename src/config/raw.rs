//! The file as it is written: every key, optional where there is a default.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};

use super::lease::RawResource;
use super::proxy::{RawProxy, RawWitness};
use super::{AuthMethod, Journal, Limits, Log, Pool, Reactivate, Reads, Timeouts};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    /// Short for `cluster.database`, so that a small file needs no section.
    pub database: Option<String>,
    /// Short for `cluster.postgres_listen`, or for `mysql_listen` in front of such databases.
    pub listen: Option<OneOrMany>,
    pub cluster: RawCluster,
    #[serde(alias = "backends")]
    pub backend: Vec<WordOr<RawBackend>>,
    pub admin: Option<RawCredentials>,
    #[serde(alias = "users")]
    pub user: Vec<RawUser>,
    pub pool: Pool,
    pub reads: Reads,
    pub timeouts: Timeouts,
    pub limits: Limits,
    pub http: Option<WordOr<RawHttp>>,
    pub log: Log,
    pub client_tls: Option<RawClientTls>,
    pub journal: Journal,
    pub proxy: RawProxy,
    pub witness: Option<RawWitness>,
    #[serde(alias = "resources")]
    pub resource: Vec<RawResource>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawCluster {
    pub name: Option<String>,
    pub database: Option<String>,
    #[serde(alias = "listen", alias = "listen_addresses")]
    pub postgres_listen: Option<OneOrMany>,
    pub mysql_listen: Option<OneOrMany>,
    pub state_dir: Option<String>,
    #[serde(alias = "auth_type")]
    pub auth: Option<AuthMethod>,
    #[serde(alias = "admin_users")]
    pub console_users: Vec<String>,
    pub reactivate: Option<Reactivate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawBackend {
    #[serde(alias = "id")]
    pub name: Option<String>,
    #[serde(alias = "location")]
    pub url: Option<String>,
    pub address: Option<String>,
    pub database: Option<String>,
    pub weight: Option<u32>,
    #[serde(alias = "sslmode")]
    pub tls: Option<String>,
    #[serde(alias = "sslrootcert")]
    pub tls_ca: Option<String>,
    pub admin: Option<RawCredentials>,
    pub users: BTreeMap<String, RawCredentials>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCredentials {
    #[serde(alias = "name")]
    pub user: String,
    pub password: Option<String>,
    pub password_file: Option<String>,
    pub password_env: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUser {
    #[serde(alias = "user")]
    pub name: String,
    pub password: Option<String>,
    pub password_file: Option<String>,
    pub password_env: Option<String>,
    pub max_connections: Option<u32>,
    pub auth: Option<AuthMethod>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHttp {
    pub listen: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawClientTls {
    pub cert: String,
    pub key: String,
    #[serde(default)]
    pub required: bool,
}

/// `"x"` or `["x", "y"]`.
#[derive(Debug)]
pub(super) struct OneOrMany(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = OneOrMany;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a text or a list of texts")
            }
            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = seq.next_element()? {
                    list.push(item);
                }
                Ok(OneOrMany(list))
            }
        }
        from.deserialize_any(List)
    }
}

/// A single word where that says it all, or a table. Written by hand because serde's untagged
/// enums forget both the line and the name of a misspelt key.
#[derive(Debug)]
pub(super) enum WordOr<T> {
    Word(String),
    Table(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for WordOr<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = WordOr<T>;
            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a text or a table")
            }
            fn visit_str<E>(self, text: &str) -> Result<WordOr<T>, E> {
                Ok(WordOr::Word(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WordOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(WordOr::Table)
            }
        }
        from.deserialize_any(Either(PhantomData))
    }
}

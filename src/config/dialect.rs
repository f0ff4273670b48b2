//! What kind of databases a cluster is made of: one kind, fixed by its file.

use std::net::SocketAddr;

use lockstep_protocol::Dialect;

use super::raw::{OneOrMany, RawBackend, RawCluster, WordOr};
use super::validate::{Result, listen_address, once};
use super::{ConfigError, address};

const POSTGRES_LISTEN: &str = "127.0.0.1:6432";
const MYSQL_LISTEN: &str = "127.0.0.1:6433";

/// The port that a server has when none is written.
pub(super) fn port(dialect: Dialect) -> u16 {
    match dialect {
        Dialect::Postgres => 5432,
        Dialect::MySql => 3306,
    }
}

/// The word for it where settings are shown.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
pub(super) fn word<S: serde::Serializer>(
    dialect: &Dialect,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(name(*dialect))
}

fn name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => "postgresql",
        Dialect::MySql => "mysql",
    }
}

/// What the URLs of the backends say, and else where the proxy listens. PostgreSQL where nothing does.
pub(super) fn of(backends: &[WordOr<RawBackend>], cluster: &RawCluster) -> Result<Dialect> {
    let mut found: Option<(usize, Dialect)> = None;
    for (index, backend) in backends.iter().enumerate() {
        let text = match backend {
            WordOr::Word(url) => Some(url),
            WordOr::Table(table) => table.url.as_ref().or(table.address.as_ref()),
        };
        // What is wrong with an address is said where it is read.
        let Some(dialect) = text.and_then(|text| address::parse(text).ok()?.dialect) else {
            continue;
        };
        match found {
            Some((first, other)) if other != dialect => {
                let problem = format!(
                    "backend {} is {} and backend {} is {}",
                    first + 1,
                    name(other),
                    index + 1,
                    name(dialect)
                );
                let remedy =
                    "a cluster is of one kind: leave one kind out, or run a second lockstep";
                return Err(ConfigError::new(problem, remedy).at(format!("backend.{index}.url")));
            }
            _ => found = found.or(Some((index, dialect))),
        }
    }
    let said = found.map(|(_, dialect)| dialect);
    Ok(said.unwrap_or(match cluster.mysql_listen {
        Some(_) => Dialect::MySql,
        None => Dialect::Postgres,
    }))
}

/// Where clients of PostgreSQL and of MySQL connect: one of the two is empty.
pub(super) fn listen(
    dialect: Dialect,
    short: Option<OneOrMany>,
    postgres: Option<OneOrMany>,
    mysql: Option<OneOrMany>,
) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let (own, other, key, other_key, default) = match dialect {
        Dialect::Postgres => {
            (postgres, mysql, "cluster.postgres_listen", "cluster.mysql_listen", POSTGRES_LISTEN)
        }
        Dialect::MySql => {
            (mysql, postgres, "cluster.mysql_listen", "cluster.postgres_listen", MYSQL_LISTEN)
        }
    };
    if other.is_some() {
        let problem = format!("the backends are {}, which is not spoken there", name(dialect));
        let remedy = format!("write `{}` instead", key.trim_start_matches("cluster."));
        return Err(ConfigError::new(problem, remedy).at(other_key));
    }
    let list = once("listen", short, own)?.map_or_else(|| vec![default.to_owned()], |list| list.0);
    let addresses =
        list.iter().map(|text| listen_address(text, key)).collect::<Result<Vec<_>>>()?;
    if addresses.is_empty() {
        let problem = "the list of addresses to listen on is empty";
        return Err(ConfigError::new(problem, format!("write for example \"{default}\"")).at(key));
    }
    Ok(match dialect {
        Dialect::Postgres => (addresses, Vec::new()),
        Dialect::MySql => (Vec::new(), addresses),
    })
}

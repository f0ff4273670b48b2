//! Makes a cluster of servers: checks that they belong together and hold the same, installs what
//! lockstep needs on each, and writes the first view.
//!
//! Whatever stops it half-way leaves servers without a control row, which are no part of any cluster,
//! and running it again goes on from there.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::compare::{Content, content, diff};
use super::control::{
    identity, install_token, journal_end, read_control, read_token, write_control,
};
use super::fill::{Login, fill, wipe};
use super::schema::{grant, install};
use crate::cluster::{Roster, Vote};
use crate::store::control::Control;
use crate::store::init::{InitOptions, InitReport};

/// One server that is to belong to the cluster.
pub struct Target {
    /// What it is called.
    pub name: String,
    /// An administrator's connection.
    pub conn: Conn,
    /// The same, for the tools.
    pub login: Login,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The same server twice.
    #[error("{0} and {1} are the same server; each backend must be a server of its own")]
    SameServer(String, String),
    /// Follows another server, or was told to take no writes.
    #[error("{0} is read-only; a backend must accept writes")]
    ReadOnly(String),
    /// Belongs to another cluster, or another backend of this one, or was copied from one.
    #[error(
        "{backend} already belongs to cluster {cluster} as {known_as}, or is a copy of that server; \
             where it is neither, DROP DATABASE lockstep there"
    )]
    Foreign {
        /// The backend as it is called now.
        backend: String,
        /// The cluster it belongs to.
        cluster: String,
        /// What it is called there.
        known_as: String,
    },
    /// `source` names no backend.
    #[error("there is no backend {0} to take the data from")]
    UnknownSource(String),
    /// The data differ and nobody said which are right.
    #[error(
        "{first} and {second} do not hold the same: {}; say which is right with --source",
        list(differences)
    )]
    Differ {
        /// One.
        first: String,
        /// The other.
        second: String,
        /// How.
        differences: Vec<String>,
    },
    /// To be filled, but holds something.
    #[error("{0} is not empty; to throw away what it holds, add --discard")]
    NotEmpty(String),
    /// Filling went wrong.
    #[error("{backend} could not be filled: {why}")]
    Fill {
        /// Which.
        backend: String,
        /// Why.
        why: String,
    },
    /// A server said no.
    #[error("{backend}: {source}")]
    Server {
        /// Which.
        backend: String,
        /// What.
        source: mysql_async::Error,
    },
}

/// Makes the cluster.
///
/// # Errors
/// What stands in the way, and what to do about it.
pub async fn init(
    mut backends: Vec<Target>,
    options: InitOptions,
) -> Result<InitReport, InitError> {
    distinct(&mut backends).await?;
    let mut report = InitReport { cluster_id: options.cluster_id.clone(), ..InitReport::default() };
    let known = members(&mut backends).await?;
    let mut token = options.token.clone();
    let mut working = false;
    if let Some((at_place, control)) =
        known.iter().enumerate().find_map(|(i, c)| Some((i, c.as_ref()?)))
    {
        report.cluster_id.clone_from(&control.cluster_id);
        let target = &mut backends[at_place];
        let there = read_token(&mut target.conn).await.map_err(at(&target.name))?;
        token = there.unwrap_or(token);
        working = control.vote.roster.number > 1
            || journal_end(&mut target.conn).await.map_err(at(&target.name))? > 0;
    }
    let fresh: Vec<usize> = (0..backends.len()).filter(|place| known[*place].is_none()).collect();
    if working {
        report.notes.extend(fresh.iter().map(|place| {
            format!(
                "{} joins a cluster that is at work: activate it, and it will be filled",
                backends[*place].name
            )
        }));
    } else if !fresh.is_empty() {
        equalise(&mut backends, &fresh, &options, &mut report).await?;
    }
    let members: Vec<String> = backends.iter().map(|target| target.name.clone()).collect();
    for (place, target) in backends.iter_mut().enumerate() {
        prepare(target, &token, &options, &mut report).await?;
        if fresh.contains(&place) {
            let members = if working { Vec::new() } else { members.clone() };
            join(target, members, &mut report).await?;
        }
    }
    Ok(report)
}

/// Installs what a server needs.
async fn prepare(
    target: &mut Target,
    token: &str,
    options: &InitOptions,
    report: &mut InitReport,
) -> Result<(), InitError> {
    let value = format!("{:032x}", rand::random::<u128>());
    let error = at(&target.name);
    install(&mut target.conn, &value).await.map_err(&error)?;
    install_token(&mut target.conn, token).await.map_err(&error)?;
    for user in grant(&mut target.conn, &options.users).await.map_err(&error)? {
        let note = format!(
            "user {user} does not exist on {}: create it there, and run this again",
            target.name
        );
        report.notes.push(note);
    }
    Ok(())
}

/// Writes the first control row. Without members it is one that waits to be activated.
async fn join(
    target: &mut Target,
    members: Vec<String>,
    report: &mut InitReport,
) -> Result<(), InitError> {
    let error = at(&target.name);
    let system = identity(&mut target.conn).await.map_err(&error)?.system_identifier;
    let control = Control {
        cluster_id: report.cluster_id.clone(),
        backend: target.name.clone(),
        system_identifier: system.unwrap_or_default(),
        vote: Vote {
            roster: Roster { number: i64::from(!members.is_empty()), members, ..Roster::default() },
            ..Vote::default()
        },
        writer: String::new(),
        beat: 0,
        complete_to: 0,
        pruned_to: 0,
    };
    write_control(&mut target.conn, &control).await.map_err(&error)?;
    report.joined.push(target.name.clone());
    Ok(())
}

/// Each must be a server of its own that can be written to. A lock that one connection takes is seen
/// by another of the same server only, whatever the address.
async fn distinct(backends: &mut [Target]) -> Result<(), InitError> {
    for place in 0..backends.len() {
        let lock = format!("lockstep-{:032x}", rand::random::<u128>());
        let target = &mut backends[place];
        let name = target.name.clone();
        let found = identity(&mut target.conn).await.map_err(at(&name))?;
        if found.read_only {
            return Err(InitError::ReadOnly(name));
        }
        let take = format!("DO GET_LOCK('{lock}', 0)");
        target.conn.query_drop(take).await.map_err(at(&name))?;
        for other in &mut backends[place + 1..] {
            let seen = format!("SELECT IS_USED_LOCK('{lock}') IS NOT NULL");
            let seen: Option<bool> = other.conn.query_first(seen).await.map_err(at(&other.name))?;
            if seen == Some(true) {
                return Err(InitError::SameServer(name, other.name.clone()));
            }
        }
        let free = format!("DO RELEASE_LOCK('{lock}')");
        backends[place].conn.query_drop(free).await.map_err(at(&name))?;
    }
    Ok(())
}

/// The control rows of those that are members already.
async fn members(backends: &mut [Target]) -> Result<Vec<Option<Control>>, InitError> {
    let mut known: Vec<Option<Control>> = Vec::new();
    for target in backends {
        let error = at(&target.name);
        let control = read_control(&mut target.conn).await.map_err(&error)?;
        let system = identity(&mut target.conn).await.map_err(&error)?.system_identifier;
        if let Some(control) = &control {
            let other = known.iter().flatten().any(|first| first.cluster_id != control.cluster_id);
            let same = system.as_ref() == Some(&control.system_identifier);
            if other || control.backend != target.name || !same {
                return Err(InitError::Foreign {
                    backend: target.name.clone(),
                    cluster: control.cluster_id.clone(),
                    known_as: control.backend.clone(),
                });
            }
        }
        known.push(control);
    }
    Ok(known)
}

/// Sees to it that all servers hold the same before the first view is written.
async fn equalise(
    backends: &mut [Target],
    fresh: &[usize],
    options: &InitOptions,
    report: &mut InitReport,
) -> Result<(), InitError> {
    let right = match &options.source {
        Some(name) => backends
            .iter()
            .position(|target| target.name == *name)
            .ok_or_else(|| InitError::UnknownSource(name.clone()))?,
        None => 0,
    };
    let (first, from) = (backends[right].name.clone(), backends[right].login.clone());
    let wanted = content(&mut backends[right].conn).await.map_err(at(&first))?;
    for place in (0..backends.len()).filter(|place| *place != right) {
        let target = &mut backends[place];
        let found = content(&mut target.conn).await.map_err(at(&target.name))?;
        let mut differences = diff(&wanted, &found);
        if differences.is_empty() {
            continue;
        }
        if options.source.is_some() && fresh.contains(&place) {
            replace(&from, target, &wanted, &found, options).await?;
            report.filled.push(target.name.clone());
            differences =
                diff(&wanted, &content(&mut target.conn).await.map_err(at(&target.name))?);
        }
        if !differences.is_empty() {
            return Err(InitError::Differ { first, second: target.name.clone(), differences });
        }
    }
    Ok(())
}

/// Fills one server from the right one.
async fn replace(
    from: &Login,
    target: &mut Target,
    wanted: &Content,
    found: &Content,
    options: &InitOptions,
) -> Result<(), InitError> {
    if !found.is_empty() && !options.discard {
        return Err(InitError::NotEmpty(target.name.clone()));
    }
    wipe(&mut target.conn, &found.databases).await.map_err(at(&target.name))?;
    fill(from, &target.login, &wanted.databases)
        .await
        .map_err(|why| InitError::Fill { backend: target.name.clone(), why })
}

fn at(name: &str) -> impl Fn(mysql_async::Error) -> InitError + use<> {
    let backend = name.to_owned();
    move |source| InitError::Server { backend: backend.clone(), source }
}

/// The first few differences; the rest is a number.
fn list(differences: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = differences.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; ");
    if differences.len() > SHOWN {
        text.push_str(&format!("; and {} more", differences.len() - SHOWN));
    }
    text
}

//! Makes a cluster of databases: checks that they belong together and hold the same, installs what lockstep needs in
//! each, and writes the first view.
//!
//! Whatever stops it half-way leaves databases without a control row, which are no part of any cluster, and running it
//! again goes on from there. On a cluster that exists it upgrades the schema and changes nothing else.

use super::compare::{Content, content, diff};
use super::control::{
    Control, NOTHING, identity, install, install_tokens, journal_end, read_control, read_tokens,
    write_control,
};
use super::fill::{FillError, fill, wipe};
use crate::cluster::{Roster, Vote};
use std::path::PathBuf;
use tokio_postgres::{Client, Error};

/// One database that is to belong to the cluster.
pub struct Target {
    /// What it is called.
    pub name: String,
    /// An administrator's connection.
    pub client: Client,
    /// The same, for `pg_dump` and `psql`.
    pub url_for_tools: String,
}

/// What to do, and the randomness to do it with.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// The backend whose data are right; the others are filled from it.
    pub source: Option<String>,
    /// Whether others that are not empty may be emptied first.
    pub discard: bool,
    /// A fresh random name for the cluster; an existing one wins.
    pub cluster_id: String,
    /// A fresh random secret for the proxy.
    pub token: String,
    /// A fresh random secret for the capture.
    pub capture_token: String,
    /// The users of the cluster, to say which are missing where.
    pub users: Vec<String>,
    /// Where the tools of PostgreSQL are, if not in the usual places.
    pub tools: Option<PathBuf>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitReport {
    /// The cluster all belong to now.
    pub cluster_id: String,
    /// Backends that became members now; the rest had been before.
    pub joined: Vec<String>,
    /// Backends that were filled from the source.
    pub filled: Vec<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The same server twice.
    #[error("{0} and {1} are the same server; each backend must be a server of its own")]
    SameServer(String, String),
    /// Not a primary.
    #[error("{0} is a standby; a backend must accept writes")]
    Standby(String),
    /// Not an administrator.
    #[error("the administrator of {0} is not a superuser, which installing needs")]
    NotSuperuser(String),
    /// Belongs to another cluster, or another backend of this one.
    #[error("{backend} already belongs to cluster {cluster} as {known_as}")]
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
    /// Roles that own something on the source do not exist here.
    #[error("{backend} lacks the roles {}; create them there first", roles.join(", "))]
    MissingRoles {
        /// Where.
        backend: String,
        /// Which.
        roles: Vec<String>,
    },
    /// Filling went wrong.
    #[error("{backend} could not be filled: {source}")]
    Fill {
        /// Which.
        backend: String,
        /// Why.
        source: FillError,
    },
    /// A database said no.
    #[error("{backend}: {source}")]
    Database {
        /// Which.
        backend: String,
        /// What.
        source: Error,
    },
}

/// Makes the cluster.
pub async fn init(backends: Vec<Target>, options: InitOptions) -> Result<InitReport, InitError> {
    let identifiers = distinct(&backends).await?;
    let mut report = InitReport { cluster_id: options.cluster_id.clone(), ..InitReport::default() };
    let (known, fresh) = sort_out(&backends, &identifiers).await?;
    let mut tokens = (options.token.clone(), options.capture_token.clone());
    let mut working = false;
    if let Some((member, control)) = known.first() {
        report.cluster_id.clone_from(&control.cluster_id);
        let there = read_tokens(&member.client).await.map_err(at(member))?;
        tokens = there.unwrap_or(tokens);
        working = control.vote.roster.number > 1
            || journal_end(&member.client).await.map_err(at(member))? > 0;
    }
    if working {
        for target in &fresh {
            report.notes.push(format!(
                "{} joins a cluster that is at work: it stays inactive until it has a copy (README, \
                 \"When a server comes back\")",
                target.name
            ));
        }
    } else if !fresh.is_empty() {
        equalise(&backends, &fresh, &options, &mut report).await?;
    }
    for target in &backends {
        install(&target.client).await.map_err(at(target))?;
        install_tokens(&target.client, &tokens.0, &tokens.1).await.map_err(at(target))?;
    }
    let members: Vec<String> = backends.iter().map(|target| target.name.clone()).collect();
    for target in fresh {
        let place = backends.iter().position(|other| other.name == target.name).unwrap_or_default();
        let control = Control {
            cluster_id: report.cluster_id.clone(),
            backend: target.name.clone(),
            system_identifier: identifiers[place].clone(),
            vote: Vote {
                roster: Roster {
                    number: i64::from(!working),
                    members: if working { Vec::new() } else { members.clone() },
                    ..Roster::default()
                },
                ..Vote::default()
            },
            writer: String::new(),
            beat: 0,
            complete_to: if working { NOTHING } else { 0 },
            pruned_to: 0,
        };
        write_control(&target.client, &control).await.map_err(at(target))?;
        report.joined.push(target.name.clone());
    }
    note_users(&backends, &options.users, &mut report).await?;
    Ok(report)
}

/// Each must be a server of its own that can be written to; gives their system identifiers.
async fn distinct(backends: &[Target]) -> Result<Vec<String>, InitError> {
    let mut seen: Vec<String> = Vec::new();
    for target in backends {
        let found = identity(&target.client).await.map_err(at(target))?;
        if found.in_recovery {
            return Err(InitError::Standby(target.name.clone()));
        }
        let superuser = target
            .client
            .query_one("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user", &[])
            .await
            .map_err(at(target))?;
        if !superuser.get::<_, bool>(0) {
            return Err(InitError::NotSuperuser(target.name.clone()));
        }
        if let Some(twin) = seen.iter().position(|other| *other == found.system_identifier) {
            return Err(InitError::SameServer(backends[twin].name.clone(), target.name.clone()));
        }
        seen.push(found.system_identifier);
    }
    Ok(seen)
}

/// Who is a member already, and who is not.
async fn sort_out<'a>(
    backends: &'a [Target],
    identifiers: &[String],
) -> Result<(Vec<(&'a Target, Control)>, Vec<&'a Target>), InitError> {
    let mut known: Vec<(&Target, Control)> = Vec::new();
    let mut fresh = Vec::new();
    for (target, identifier) in backends.iter().zip(identifiers) {
        let Some(control) = read_control(&target.client).await.map_err(at(target))? else {
            fresh.push(target);
            continue;
        };
        let other_cluster =
            known.first().is_some_and(|(_, first)| first.cluster_id != control.cluster_id);
        if other_cluster
            || control.backend != target.name
            || control.system_identifier != *identifier
        {
            return Err(InitError::Foreign {
                backend: target.name.clone(),
                cluster: control.cluster_id,
                known_as: control.backend,
            });
        }
        known.push((target, control));
    }
    Ok((known, fresh))
}

/// Sees to it that all backends hold the same before the first view is written.
async fn equalise(
    backends: &[Target],
    fresh: &[&Target],
    options: &InitOptions,
    report: &mut InitReport,
) -> Result<(), InitError> {
    let right = match &options.source {
        Some(name) => backends
            .iter()
            .find(|target| target.name == *name)
            .ok_or_else(|| InitError::UnknownSource(name.clone()))?,
        None => &backends[0],
    };
    let wanted = content(&right.client).await.map_err(at(right))?;
    for target in backends.iter().filter(|target| target.name != right.name) {
        let found = content(&target.client).await.map_err(at(target))?;
        let differences = diff(&wanted, &found);
        if differences.is_empty() {
            continue;
        }
        let member = !fresh.iter().any(|other| other.name == target.name);
        if options.source.is_none() || member {
            return Err(InitError::Differ {
                first: right.name.clone(),
                second: target.name.clone(),
                differences,
            });
        }
        replace(right, target, &wanted, &found, options, report).await?;
    }
    Ok(())
}

/// Fills one backend from the right one and looks at the outcome.
async fn replace(
    right: &Target,
    target: &Target,
    wanted: &Content,
    found: &Content,
    options: &InitOptions,
    report: &mut InitReport,
) -> Result<(), InitError> {
    let roles = missing_roles(right, target).await?;
    if !roles.is_empty() {
        return Err(InitError::MissingRoles { backend: target.name.clone(), roles });
    }
    if !found.is_empty() {
        if !options.discard {
            return Err(InitError::NotEmpty(target.name.clone()));
        }
        wipe(&target.client).await.map_err(at(target))?;
    }
    let tools = options.tools.as_deref();
    fill(&right.url_for_tools, &target.url_for_tools, &target.client, tools)
        .await
        .map_err(|source| InitError::Fill { backend: target.name.clone(), source })?;
    let now = content(&target.client).await.map_err(at(target))?;
    // A definition may be printed in other words after a restore, which is no reason to refuse; rows and whole objects
    // that are missing are.
    let (reworded, differences): (Vec<String>, Vec<String>) =
        diff(wanted, &now).into_iter().partition(|text| text.contains(" is defined differently: "));
    if !differences.is_empty() {
        return Err(InitError::Differ {
            first: right.name.clone(),
            second: target.name.clone(),
            differences,
        });
    }
    report.notes.extend(reworded.into_iter().map(|text| format!("{}: {text}", target.name)));
    report.filled.push(target.name.clone());
    Ok(())
}

/// Roles that something on the source belongs to or that were granted something there, and that the target lacks.
async fn missing_roles(right: &Target, target: &Target) -> Result<Vec<String>, InitError> {
    let needed = right
        .client
        .query(
            "SELECT DISTINCT r.rolname::text FROM pg_catalog.pg_shdepend d \
             JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass \
             AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
             UNION SELECT pg_catalog.pg_get_userbyid(relowner)::text FROM pg_catalog.pg_class ORDER BY 1",
            &[],
        )
        .await
        .map_err(at(right))?;
    let needed: Vec<String> = needed.iter().map(|row| row.get(0)).collect();
    absent(target, &needed).await
}

async fn absent(target: &Target, roles: &[String]) -> Result<Vec<String>, InitError> {
    let rows = target
        .client
        .query(
            "SELECT u FROM pg_catalog.unnest($1::text[]) AS u \
             WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = u)",
            &[&roles],
        )
        .await
        .map_err(at(target))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn note_users(
    backends: &[Target],
    users: &[String],
    report: &mut InitReport,
) -> Result<(), InitError> {
    for target in backends {
        for user in absent(target, users).await? {
            report
                .notes
                .push(format!("user {user} does not exist on {}: create it there", target.name));
        }
    }
    Ok(())
}

fn at(target: &Target) -> impl Fn(Error) -> InitError + '_ {
    |source| InitError::Database { backend: target.name.clone(), source }
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

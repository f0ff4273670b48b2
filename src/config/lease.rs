//! The sections `[[resource]]`: whose sessions follow the lease that the application's agents hold.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::validate::{Result, name};
use super::{ConfigError, User};

/// An application that runs on one of several nodes at a time, as its agents call it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    /// The agents' name for it.
    pub name: String,
    /// Users whose sessions all belong to it.
    pub users: Vec<String>,
    /// What becomes of sessions of nodes that do not have it.
    pub standby_sessions: StandbySessions,
    /// By what its nodes are told apart.
    pub nodes: Vec<Node>,
}

/// A node of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// The agents' name for it.
    pub name: String,
    /// Addresses that its sessions come from.
    pub hosts: Vec<IpAddr>,
    /// Users that it alone has.
    pub users: Vec<String>,
}

/// What becomes of sessions of nodes that do not have the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StandbySessions {
    /// They may read.
    ReadOnly,
    /// They are turned away.
    Refuse,
    /// They are let in once their node has it.
    Wait,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawResource {
    pub name: String,
    #[serde(default)]
    pub users: Vec<String>,
    pub standby_sessions: Option<StandbySessions>,
    #[serde(default)]
    pub node: Vec<RawNode>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNode {
    pub name: String,
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub users: Vec<String>,
}

/// Every resource and every user means one thing.
pub(super) fn resources(raw: Vec<RawResource>, known: &[User]) -> Result<Vec<Resource>> {
    let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut resources = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("resource.{index}");
        let resource = resource(raw, &key)?;
        if !names.insert(resource.name.clone()) {
            let problem = format!("two resources are called `{}`", resource.name);
            let remedy = "give each `[[resource]]` the name that the agents have for it";
            return Err(ConfigError::new(problem, remedy).at(format!("{key}.name")));
        }
        let own = resource.nodes.iter().flat_map(|node| &node.users);
        for user in resource.users.iter().chain(own) {
            if !known.iter().any(|other| other.name == *user) {
                let problem = format!("`{user}` of the resource `{}` is no user", resource.name);
                let remedy = format!("add a `[[user]]` with `name = \"{user}\"`");
                return Err(ConfigError::new(problem, remedy).at(format!("{key}.users")));
            }
            if !taken.insert(user.clone()) {
                let problem = format!("the user `{user}` is named for two resources or nodes");
                let remedy = "name it once: for the resource, or for the one node that has it";
                return Err(ConfigError::new(problem, remedy).at(format!("{key}.users")));
            }
        }
        resources.push(resource);
    }
    Ok(resources)
}

fn resource(raw: RawResource, key: &str) -> Result<Resource> {
    let mut nodes: Vec<Node> = Vec::new();
    for (index, node) in raw.node.into_iter().enumerate() {
        let key = format!("{key}.node.{index}");
        let host = |text: &String| {
            text.parse::<IpAddr>().map_err(|_| {
                let remedy = "write an IP address, as the proxy sees the node's connections";
                ConfigError::new(format!("`{text}` is no address"), remedy)
                    .at(format!("{key}.hosts"))
            })
        };
        let hosts = node.hosts.iter().map(host).collect::<Result<Vec<_>>>()?;
        let twice = nodes.iter().any(|other| {
            other.name == node.name || other.hosts.iter().any(|host| hosts.contains(host))
        });
        if twice {
            let problem = format!("the name or an address of node `{}` is there twice", node.name);
            return Err(ConfigError::new(problem, "name each node and address once").at(key));
        }
        let name = name(node.name, &format!("{key}.name"))?;
        nodes.push(Node { name, hosts, users: node.users });
    }
    Ok(Resource {
        name: name(raw.name, &format!("{key}.name"))?,
        users: raw.users,
        standby_sessions: raw.standby_sessions.unwrap_or(StandbySessions::ReadOnly),
        nodes,
    })
}

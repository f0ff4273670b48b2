//! `lockstep agent`: runs the agent of this node, and what operators ask of all of them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::agent::bundle;
use crate::agent::here;
use crate::agent::run;
use crate::agent::tool::{self, Tool};
use crate::agent::{cgroup, guard};
use crate::config::Limits;
use crate::config::agent::AgentConfig;
use crate::trace;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the agent of this node. SIGTERM gives back what it has and ends.
    Run(Node),
    /// Read the configuration and say what is wrong with it.
    Check(Node),
    /// Make the tables in the database. The first agent does it as well.
    Init(Of),
    /// Who has the resource, and how the nodes stand.
    #[command(visible_alias = "nodes", visible_alias = "list")]
    Status {
        #[command(flatten)]
        of: Of,
        /// For machines.
        #[arg(long)]
        json: bool,
    },
    /// What happened, the newest last.
    #[command(visible_alias = "history")]
    Events {
        #[command(flatten)]
        of: Of,
        /// How many.
        #[arg(long, default_value_t = 50)]
        most: u32,
    },
    /// How the checks of this machine stand.
    Checks(File),
    /// How long nobody served, for each change of the master.
    Downtime {
        #[command(flatten)]
        of: Of,
        /// Among how many of the newest events to look.
        #[arg(long, default_value_t = 1000)]
        most: u32,
    },
    /// Have another node take over: the one named, or the next.
    #[command(visible_alias = "swap")]
    Switchover {
        #[command(flatten)]
        of: Of,
        /// Who is to have the resource.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
    /// Have another node take over, if that one has the resource.
    Standby {
        #[command(flatten)]
        of: Of,
        /// Who is to give it up [default: this host].
        node: Option<String>,
    },
    /// Hold the resource still while people work on it; with --node: take one node out.
    Maintenance {
        /// `on` or `off`.
        #[arg(value_parser = ["on", "off"])]
        state: String,
        #[command(flatten)]
        of: Of,
        /// One node instead of the whole resource.
        #[arg(long)]
        node: Option<String>,
        /// The holder, which does not answer, is certainly stopped.
        #[arg(long, value_name = "NODE")]
        confirm_stopped: Option<String>,
    },
    /// End what damping or a failed check holds back.
    Clear {
        #[command(flatten)]
        of: Of,
        /// One node instead of all.
        #[arg(long)]
        node: Option<String>,
    },
    /// Go on from a lease that is older than one that was seen: a backup was restored on purpose.
    AcceptRestore {
        #[command(flatten)]
        of: Of,
        /// One node instead of all.
        #[arg(long)]
        node: Option<String>,
    },
    /// Give the resource to a node although its holder has not given it back.
    ForceMaster {
        /// Who is to have it.
        node: String,
        #[command(flatten)]
        of: Of,
        /// The holder, which does not answer, is certainly stopped.
        #[arg(long, value_name = "NODE")]
        confirm_stopped: Option<String>,
    },
    /// Gather what a helper wants to see into one file, without passwords and secrets.
    Bundle {
        #[command(flatten)]
        node: Node,
        /// Where to [default: lockstep-agent-NODE.txt].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Stop everything that this machine runs, now, without the agent: for its unit's ExecStopPost.
    Demote {
        #[command(flatten)]
        file: File,
        /// Nothing is asked to stop: it is killed.
        #[arg(long, required = true)]
        emergency: bool,
    },
    /// Enforce deadlines for an agent, which starts this itself.
    #[command(hide = true)]
    Guard {
        #[arg(long)]
        state_dir: PathBuf,
        #[arg(long)]
        watchdog: Option<PathBuf>,
    },
    /// Enter a group of processes and become another program, for an agent, which starts this itself.
    #[command(hide = true)]
    Enter {
        #[arg(long)]
        cgroup: PathBuf,
        #[arg(last = true)]
        words: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct File {
    /// The configuration, the same on every node; config/agent.toml shows every key.
    #[arg(long, short, value_name = "FILE", env = "LOCKSTEP_AGENT_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Node {
    #[command(flatten)]
    file: File,
    /// Which of the nodes in the file this machine is [default: the host name].
    #[arg(long, env = "LOCKSTEP_NODE")]
    node: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct Of {
    #[command(flatten)]
    file: File,
    /// Which resource [default: the only one].
    #[arg(long)]
    resource: Option<String>,
}

/// Runs one of the commands.
pub(super) fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Guard { state_dir, watchdog } => guard::live(&state_dir, watchdog.as_deref()),
        Command::Enter { cgroup, words } => cgroup::enter(&cgroup, &words),
        Command::Run(node) => {
            let config = load(&node.file)?;
            let level = trace::init(&config.log).map_err(|error| error.to_string())?;
            let name = name(node.node);
            let again = move || match load(&node.file) {
                Ok(config) => match level.set(&config.log.level) {
                    Ok(()) => tracing::warn!(level = config.log.level, "log.level was read again"),
                    Err(error) => tracing::error!(%error, "log.level stays as it was"),
                },
                Err(why) => tracing::error!(why, "log.level stays as it was"),
            };
            // Whatever takes long on one thread must not keep the lease from being renewed.
            let limits = Limits { worker_threads: 2, ..Limits::default() };
            super::runtime(&limits)?.block_on(run::run(config, &name, &again))
        }
        Command::Bundle { node, out } => {
            let config = load(&node.file)?;
            let name = name(node.node);
            let gathering = bundle::gather(&config, &node.file.config, &name);
            let text = super::runtime(&Limits::default())?.block_on(gathering);
            let out = out.unwrap_or_else(|| format!("lockstep-agent-{name}.txt").into());
            bundle::write(&out, &text)?;
            println!(
                "{}: read it before you send it; programs may have secrets in their words",
                out.display()
            );
            Ok(())
        }
        Command::Check(node) => {
            let config = load(&node.file)?;
            let name = name(node.node);
            config.node(&name).map_err(|error| error.to_string())?;
            println!("the configuration is right; this node is {name}");
            here::warn_of_units(&config).into_iter().for_each(|line| println!("{line}"));
            let runtime = super::runtime(&Limits::default())?;
            let warnings = runtime.block_on(tool::warn_of_proxies(&config));
            warnings.into_iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        Command::Checks(file) => {
            print!("{}", tool::checks(&load(&file)?)?);
            Ok(())
        }
        Command::Demote { file, emergency: _ } => here::end_everything(&load(&file)?),
        other => {
            let answer = super::runtime(&Limits::default())?.block_on(ask(other))?;
            print!("{answer}");
            Ok(())
        }
    }
}

async fn ask(command: Command) -> Result<String, String> {
    match command {
        Command::Init(of) => tool_of(&of)?.init().await,
        Command::Status { of, json } => tool_of(&of)?.status(json).await,
        Command::Events { of, most } => tool_of(&of)?.events(most).await,
        Command::Downtime { of, most } => tool_of(&of)?.downtime(most).await,
        Command::Switchover { of, to } => tool_of(&of)?.switchover(to.as_deref(), None).await,
        Command::Standby { of, node } => {
            let node = name(node);
            tool_of(&of)?.switchover(None, Some(&node)).await
        }
        Command::Maintenance { state, of, node, confirm_stopped } => {
            let on = state == "on";
            match node {
                Some(node) => tool_of(&of)?.maintain_node(&node, on).await,
                None => tool_of(&of)?.maintain(on, confirm_stopped.as_deref()).await,
            }
        }
        Command::Clear { of, node } => tool_of(&of)?.clear(node.as_deref()).await,
        Command::AcceptRestore { of, node } => tool_of(&of)?.accept_restore(node.as_deref()).await,
        Command::ForceMaster { node, of, confirm_stopped } => {
            tool_of(&of)?.force(&node, confirm_stopped.as_deref()).await
        }
        Command::Run(_)
        | Command::Check(_)
        | Command::Checks(_)
        | Command::Bundle { .. }
        | Command::Demote { .. }
        | Command::Guard { .. }
        | Command::Enter { .. } => Err("this command asks nothing of the database".into()),
    }
}

fn load(file: &File) -> Result<AgentConfig, String> {
    AgentConfig::load(&file.config).map_err(|error| error.to_string())
}

fn tool_of(of: &Of) -> Result<Tool, String> {
    Tool::new(&load(&of.file)?, of.resource.as_deref())
}

fn name(given: Option<String>) -> String {
    given.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

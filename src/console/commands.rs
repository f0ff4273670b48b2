//! The console's commands: the one list that HELP, the parser, its hints and the README have. (P)
//!
//! Whoever may use the console (the administrator and `cluster.console_users`) may give each of
//! them.

use super::parse::{Agents, Arguments, Command, Show, Sync};

/// A command as people know it, and how the words behind it are read.
#[derive(Debug)]
pub(super) struct Entry {
    /// The words it begins with, in capitals.
    pub(super) words: &'static str,
    /// Other words for the same.
    pub(super) also: &'static [&'static str],
    /// What follows the words.
    pub(super) arguments: &'static str,
    /// What it does, in one line.
    pub(super) help: &'static str,
    /// Reads what follows the words.
    pub(super) read: fn(&mut Arguments<'_>) -> Result<Command, String>,
}

impl Entry {
    const fn show(
        words: &'static str,
        also: &'static [&'static str],
        help: &'static str,
        read: fn(&mut Arguments<'_>) -> Result<Command, String>,
    ) -> Self {
        Self { words, also, arguments: "", help, read }
    }

    /// The whole command, as it is typed.
    pub(super) fn syntax(&self) -> String {
        format!("{} {}", self.words, self.arguments).trim_end().to_owned()
    }

    /// All ways to begin it.
    pub(super) fn beginnings(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.words).chain(self.also.iter().copied())
    }
}

/// Every command.
pub(super) static COMMANDS: &[Entry] = &[
    Entry::show(
        "SHOW BACKENDS",
        &["SHOW DATABASES", "SHOW CLUSTER", "SHOW POOL_NODES"],
        "the servers: state, role, load, what one still lacks, why and since when",
        |_| Ok(Command::Show(Show::Backends)),
    ),
    Entry::show("SHOW VIEW", &[], "who takes part in every write, and whether commits run", |_| {
        Ok(Command::Show(Show::View))
    }),
    Entry::show(
        "SHOW CLIENTS",
        &["SHOW POOL_PROCESSES"],
        "who is connected, and whether something runs",
        |_| Ok(Command::Show(Show::Clients)),
    ),
    Entry::show(
        "SHOW POOLS",
        &["SHOW POOL_POOLS"],
        "connections to the servers: in use, idle, waited for",
        |_| Ok(Command::Show(Show::Pools)),
    ),
    Entry::show(
        "SHOW JOURNAL",
        &[],
        "how far the journal is, by lockstep's count and on each server",
        |_| Ok(Command::Show(Show::Journal)),
    ),
    Entry::show(
        "SHOW STATS",
        &[],
        "all counters: the numbers that /metrics has, without histograms' buckets",
        |_| Ok(Command::Show(Show::Stats)),
    ),
    Entry::show(
        "SHOW LEASE",
        &["SHOW LEASES"],
        "which node has which application, by its agents, and how many sessions may write by it",
        |_| Ok(Command::Show(Show::Agents(Agents::Lease))),
    ),
    Entry::show(
        "SHOW NODES",
        &[],
        "the agents' nodes: role, rank (0 comes next), priority, health, message",
        |_| Ok(Command::Show(Show::Agents(Agents::Nodes))),
    ),
    Entry::show("SHOW EVENTS", &[], "what the agents have done and seen, the newest last", |_| {
        Ok(Command::Show(Show::Agents(Agents::Events)))
    }),
    Entry::show(
        "SHOW CHECKS",
        &[],
        "the agents' checks that have failed or passed again, as last reported",
        |_| Ok(Command::Show(Show::Agents(Agents::Checks))),
    ),
    Entry::show(
        "SHOW DOWNTIME",
        &[],
        "for how long nobody served, at each change of an application's node",
        |_| Ok(Command::Show(Show::Agents(Agents::Downtime))),
    ),
    Entry::show("SHOW CONFIG", &[], "every setting in force; passwords are masked", |_| {
        Ok(Command::Show(Show::Config))
    }),
    Entry::show("SHOW VERSION", &["SHOW POOL_VERSION"], "the version of lockstep", |_| {
        Ok(Command::Show(Show::Version))
    }),
    Entry {
        words: "ACTIVATE",
        also: &["ENABLE"],
        arguments: "name [USING replay]",
        help: "bring a server back: it catches up from the journal while writes go on",
        read: |arguments| {
            let name = arguments.name("the name of a backend")?;
            let sync = if arguments.keyword("USING") { arguments.sync()? } else { Sync::Replay };
            Ok(Command::Activate(name, sync))
        },
    },
    Entry {
        words: "DEACTIVATE",
        also: &["DISABLE"],
        arguments: "name",
        help: "take a server out until ACTIVATE; the last active one stays",
        read: |arguments| Ok(Command::Deactivate(arguments.name("the name of a backend")?)),
    },
    Entry {
        words: "PAUSE",
        also: &[],
        arguments: "",
        help: "let the commits under way end and hold all others; reads go on",
        read: |_| Ok(Command::Pause),
    },
    Entry {
        words: "RESUME",
        also: &[],
        arguments: "",
        help: "let commits go on after PAUSE",
        read: |_| Ok(Command::Resume),
    },
    Entry {
        words: "SWITCHOVER PROXY",
        also: &["SWITCHOVER"],
        arguments: "",
        help: "let another proxy write: transactions may finish, then sessions go on there, or clients connect again",
        read: |_| Ok(Command::Switchover),
    },
    Entry {
        words: "FORCE VIEW",
        also: &[],
        arguments: "name ACCEPT DATA LOSS",
        help: "go on with this backend alone though no quorum is there; what only others have is lost",
        read: |arguments| {
            let name = arguments.name("the name of a backend")?;
            let said = ["ACCEPT", "DATA", "LOSS"].iter().all(|word| arguments.keyword(word));
            if !said {
                return Err(
                    "ACCEPT DATA LOSS has to follow: transactions that only other backends have \
                            will be lost"
                        .into(),
                );
            }
            Ok(Command::Force(name))
        },
    },
    Entry {
        words: "RELOAD",
        also: &[],
        arguments: "",
        help: "read the configuration again, as SIGHUP does",
        read: |_| Ok(Command::Reload),
    },
    Entry {
        words: "SHUTDOWN",
        also: &[],
        arguments: "",
        help: "stop accepting, let transactions finish, end; as SIGTERM does",
        read: |_| Ok(Command::Shutdown),
    },
    Entry {
        words: "SET WEIGHT",
        also: &[],
        arguments: "name n",
        help: "a server's part of the reads, until the next reload; 0: only when no other is left",
        read: |arguments| {
            let name = arguments.name("the name of a backend")?;
            arguments.equals();
            Ok(Command::SetWeight(name, arguments.number("a weight, 0 or more")?))
        },
    },
    Entry {
        words: "SET LOG LEVEL",
        also: &["SET LOG_LEVEL"],
        arguments: "level",
        help: "what is logged: error, warn, info, debug, trace, or as info,lockstep::keeper=debug",
        read: |arguments| {
            arguments.equals();
            Ok(Command::SetLogLevel(arguments.rest("a level")?))
        },
    },
    Entry {
        words: "KILL",
        also: &[],
        arguments: "n",
        help: "cancel what a client runs; SHOW CLIENTS has the numbers",
        read: |arguments| Ok(Command::Kill(arguments.number("the number of a client")?)),
    },
    Entry {
        words: "HELP",
        also: &["SHOW HELP"],
        arguments: "",
        help: "this list",
        read: |_| Ok(Command::Show(Show::Help)),
    },
];

/// The table in the README.
#[must_use]
pub fn markdown() -> String {
    let mut table = String::from("| command | does |\n|---|---|\n");
    for entry in COMMANDS {
        let also = match entry.also {
            [] => String::new(),
            also => format!(" (also `{}`)", also.join("`, `")),
        };
        let syntax = entry.syntax().replace('|', "\\|");
        table.push_str(&format!("| `{syntax}` | {}{also} |\n", entry.help.replace('|', "\\|")));
    }
    table
}

/// What to write instead of something that no command begins with.
pub(super) fn hint(said: &[String]) -> String {
    const HELP: &str = "HELP lists the commands.";
    match nearest(said) {
        Some(entry) => format!("Did you mean {}? {HELP}", entry.syntax()),
        None if said.first().is_some_and(|word| word.eq_ignore_ascii_case("SHOW")) => {
            let known = COMMANDS.iter().filter_map(|entry| entry.words.strip_prefix("SHOW "));
            format!("SHOW knows {}. {HELP}", known.collect::<Vec<_>>().join(", "))
        }
        None => format!("This is lockstep's console, not a database. {HELP}"),
    }
}

/// The command that differs least from what was said, if that is a slip rather than something else.
fn nearest(said: &[String]) -> Option<&'static Entry> {
    let ways = COMMANDS.iter().flat_map(|entry| entry.beginnings().map(move |way| (entry, way)));
    // Who leaves SHOW out means the same.
    let ways = ways.flat_map(|(entry, way)| {
        std::iter::once((entry, way)).chain(way.strip_prefix("SHOW ").map(|bare| (entry, bare)))
    });
    let far = ways.map(|(entry, way)| {
        let words = way.split(' ').count();
        let begun = said.iter().take(words).map(|word| word.to_uppercase());
        let begun = begun.collect::<Vec<_>>().join(" ");
        (distance(&begun, way), way.len(), entry)
    });
    let likely = far.filter(|(distance, length, _)| *distance <= (*length / 4).clamp(1, 3));
    likely.min_by_key(|(distance, _, _)| *distance).map(|(_, _, entry)| entry)
}

/// How many letters have to be put in, left out, changed or swapped with the next.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut older: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for i in 0..left.len() {
        let mut row = vec![i + 1];
        for j in 0..right.len() {
            let same = usize::from(left[i] != right[j]);
            let mut best = (above[j] + same).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && left[i] == right[j - 1] && left[i - 1] == right[j] {
                best = best.min(older[j - 1] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_for(text: &str) -> String {
        hint(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn slips_are_understood_and_other_things_are_not() {
        for (text, meant) in [
            ("SHOW BAKCENDS", "SHOW BACKENDS?"),
            ("show backend", "SHOW BACKENDS?"),
            ("shwo clients", "SHOW CLIENTS?"),
            ("backends", "SHOW BACKENDS?"),
            ("DEACTIVTE db1", "DEACTIVATE name?"),
            ("ACTVATE db1", "ACTIVATE name [USING replay]?"),
            ("RESUM", "RESUME?"),
            ("SET WIEGHT a 3", "SET WEIGHT name n?"),
        ] {
            assert!(hint_for(text).contains(&format!("Did you mean {meant}")), "{text}");
        }
        for text in ["DROP TABLE x", "SELECT now()", "x", "SHOW NONSENSE", "INSERT INTO t"] {
            assert!(!hint_for(text).contains("Did you mean"), "{text}: {}", hint_for(text));
        }
        assert!(hint_for("SHOW NONSENSE").contains("SHOW knows BACKENDS, VIEW, CLIENTS"));
        assert!(hint_for("DROP TABLE x").contains("HELP"));
    }

    #[test]
    fn no_two_commands_begin_alike() {
        let mut seen = std::collections::BTreeSet::new();
        for way in COMMANDS.iter().flat_map(Entry::beginnings) {
            assert_eq!(way, way.to_uppercase());
            assert!(seen.insert(way), "{way} is there twice");
        }
    }
}

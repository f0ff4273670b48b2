//! From what was typed to what is meant. (P)

use super::chatter::{self, Chatter};
use super::commands::{self, COMMANDS, Entry};
use super::words::{self, Token};

/// What the console is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Show a table.
    Show(Show),
    /// Bring a backend back.
    Activate(Name, Sync),
    /// Take a backend out.
    Deactivate(Name),
    /// Hold commits.
    Pause,
    /// Let commits go on.
    Resume,
    /// Read the configuration again.
    Reload,
    /// End the proxy.
    Shutdown,
    /// Change a backend's part of the reads.
    SetWeight(Name, u32),
    /// Change what is logged.
    SetLogLevel(String),
    /// Hand the role of the writer to another proxy.
    Switchover,
    /// Make one backend the only member.
    Force(Name),
    /// Cancel what a client runs.
    Kill(u32),
    /// What drivers say on their own.
    Chatter(Chatter),
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// The servers.
    Backends,
    /// Who takes part in writes.
    View,
    /// Who is connected.
    Clients,
    /// Connections to the servers.
    Pools,
    /// How far the journal is.
    Journal,
    /// Counters.
    Stats,
    /// What the agents' tables say.
    Agents(Agents),
    /// Settings.
    Config,
    /// The version.
    Version,
    /// The commands.
    Help,
}

/// What the agents of applications write into their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agents {
    /// Who has what.
    Lease,
    /// How the nodes stand.
    Nodes,
    /// What happened.
    Events,
    /// Which checks have failed.
    Checks,
    /// For how long nobody served.
    Downtime,
}

/// How a backend is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// From the journal.
    Replay,
    /// By copying everything.
    Full,
    /// By copying what differs.
    Diff,
}

/// A name as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Its letters.
    pub(super) text: String,
    /// It stood in quotes: capitals count.
    pub(super) exact: bool,
}

impl Name {
    /// Where it stands in a list of names. Without quotes capitals do not count, unless only they
    /// tell two names apart.
    pub(super) fn find<'a>(
        &self,
        mut names: impl Iterator<Item = &'a str> + Clone,
    ) -> Option<usize> {
        let mut alike = names.clone();
        names.position(|name| name == self.text).or_else(|| {
            let same = |name: &str| !self.exact && name.eq_ignore_ascii_case(&self.text);
            let found = alike.position(same)?;
            (!alike.any(same)).then_some(found)
        })
    }
}

/// A text that is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// What is wrong.
    pub(super) message: String,
    /// What to write instead.
    pub(super) hint: String,
}

/// The commands of a text. One mistake and none of them is run, as in a database.
///
/// # Errors
/// With the first mistake.
pub(super) fn parse(text: &str) -> Result<Vec<Command>, Mistake> {
    let split = words::commands(text).map_err(|message| {
        let hint = "Close the quote or the comment. HELP lists the commands.".to_owned();
        Mistake { message, hint }
    })?;
    split.iter().map(|tokens| command(tokens)).collect()
}

fn command(tokens: &[Token]) -> Result<Command, Mistake> {
    if let Some((entry, length)) = begun(tokens) {
        let mut arguments = Arguments { rest: &tokens[length..] };
        let read = (entry.read)(&mut arguments).and_then(|command| match arguments.rest.first() {
            None => Ok(command),
            Some(token) => Err(format!("nothing belongs where \"{}\" stands", token.said())),
        });
        return read.map_err(|why| Mistake {
            message: format!("syntax error in {}: {why}", entry.words),
            hint: format!("Write {}. HELP lists the commands.", entry.syntax()),
        });
    }
    if let Some(chatter) = chatter::recognize(tokens) {
        return Ok(Command::Chatter(chatter));
    }
    let said: Vec<String> = tokens.iter().map(Token::said).collect();
    let shown = said.iter().take(4).cloned().collect::<Vec<_>>().join(" ");
    let dots = if said.len() > 4 { " …" } else { "" };
    Err(Mistake {
        message: format!("unknown command \"{shown}{dots}\""),
        hint: commands::hint(&said),
    })
}

/// The command that the tokens begin with, and the number of its words.
fn begun(tokens: &[Token]) -> Option<(&'static Entry, usize)> {
    let ways = COMMANDS.iter().flat_map(|entry| entry.beginnings().map(move |way| (entry, way)));
    let fitting = ways.filter(|(_, way)| {
        let length = way.split(' ').count();
        length <= tokens.len() && way.split(' ').zip(tokens).all(|(word, token)| token.is(word))
    });
    fitting.map(|(entry, way)| (entry, way.split(' ').count())).max_by_key(|(_, length)| *length)
}

/// What follows the words of a command.
#[derive(Debug)]
pub(super) struct Arguments<'a> {
    rest: &'a [Token],
}

impl Arguments<'_> {
    fn next(&mut self, what: &str) -> Result<&Token, String> {
        let (first, rest) = self.rest.split_first().ok_or_else(|| format!("{what} is missing"))?;
        self.rest = rest;
        Ok(first)
    }

    /// A name, in whatever quotes.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn name(&mut self, what: &str) -> Result<Name, String> {
        match self.next(what)? {
            Token::Word(text) => Ok(Name { text: text.clone(), exact: false }),
            Token::Name(text) | Token::Text(text) => Ok(Name { text: text.clone(), exact: true }),
            Token::Sign(sign) => Err(format!("{what} belongs where \"{sign}\" stands")),
        }
    }

    /// Whether a keyword comes next, which is then passed over.
    pub(super) fn keyword(&mut self, keyword: &str) -> bool {
        let comes = self.rest.first().is_some_and(|token| token.is(keyword));
        self.rest = &self.rest[usize::from(comes)..];
        comes
    }

    /// Passes over a `TO` or `=`, which some write and some do not.
    pub(super) fn equals(&mut self) {
        if !self.keyword("TO") && self.rest.first() == Some(&Token::Sign('=')) {
            self.rest = &self.rest[1..];
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// When there is none, or it does not fit.
    pub(super) fn number(&mut self, what: &str) -> Result<u32, String> {
        let said = self.next(what)?.said();
        said.parse().map_err(|_| format!("{what} belongs where \"{said}\" stands"))
    }

    /// A way to bring a backend up to date.
    pub(super) fn sync(&mut self) -> Result<Sync, String> {
        let said = self.next("a way to catch up")?.said();
        match said.to_ascii_lowercase().as_str() {
            "replay" => Ok(Sync::Replay),
            "full" => Ok(Sync::Full),
            "diff" => Ok(Sync::Diff),
            _ => Err(format!("\"{said}\" is no way to catch up")),
        }
    }

    /// All that is left, as one text.
    ///
    /// # Errors
    /// When nothing is left.
    pub(super) fn rest(&mut self, what: &str) -> Result<String, String> {
        if self.rest.is_empty() {
            return Err(format!("{what} is missing"));
        }
        let rest = std::mem::take(&mut self.rest);
        Ok(rest.iter().map(Token::said).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str, exact: bool) -> Name {
        Name { text: text.into(), exact }
    }

    fn one(text: &str) -> Command {
        let mut commands = parse(text).unwrap_or_else(|m| panic!("{text}: {m:?}"));
        assert_eq!(commands.len(), 1, "{text}");
        commands.remove(0)
    }

    fn hint(text: &str) -> String {
        parse(text).expect_err(text).hint
    }

    #[test]
    fn commands_are_read_as_people_type_them() {
        for (text, command) in [
            ("SHOW BACKENDS", Command::Show(Show::Backends)),
            ("show\n backends ;", Command::Show(Show::Backends)),
            ("/* c */ SHOW DATABASES -- c", Command::Show(Show::Backends)),
            ("show pool_nodes", Command::Show(Show::Backends)),
            ("Help;", Command::Show(Show::Help)),
            ("show help", Command::Show(Show::Help)),
            ("activate db1", Command::Activate(name("db1", false), Sync::Replay)),
            ("ACTIVATE \"Db1\" USING REPLAY", Command::Activate(name("Db1", true), Sync::Replay)),
            ("ACTIVATE 'a' using full", Command::Activate(name("a", true), Sync::Full)),
            ("DEACTIVATE eu.db-1", Command::Deactivate(name("eu.db-1", false))),
            ("SET WEIGHT a 0", Command::SetWeight(name("a", false), 0)),
            ("set weight a to 3", Command::SetWeight(name("a", false), 3)),
            ("set weight a = '3'", Command::SetWeight(name("a", false), 3)),
            ("SET LOG LEVEL debug", Command::SetLogLevel("debug".into())),
            ("SET LOG LEVEL to 'warn'", Command::SetLogLevel("warn".into())),
            (
                "set log level info,lockstep::keeper=debug",
                Command::SetLogLevel("info,lockstep::keeper=debug".into()),
            ),
        ] {
            assert_eq!(one(text), command, "{text}");
        }
    }

    #[test]
    fn every_command_of_the_list_is_understood() {
        for entry in COMMANDS {
            let text = entry.syntax().replace(['[', ']'], "").replace(" n", " 1");
            for way in entry.beginnings() {
                let text = text.replacen(entry.words, way, 1);
                assert!(parse(&text).is_ok(), "{text}: {:?}", parse(&text));
            }
        }
    }

    #[test]
    fn several_commands_or_none_are_run() {
        assert_eq!(parse("PAUSE; RESUME;"), Ok(vec![Command::Pause, Command::Resume]));
        assert_eq!(parse(" ; -- nothing"), Ok(Vec::new()));
        assert!(parse("PAUSE; RESUMING").is_err(), "nothing is run when one is wrong");
    }

    #[test]
    fn mistakes_say_what_to_write() {
        assert!(hint("SHOW BACKEND").contains("SHOW BACKENDS"));
        assert!(hint("SET WEIGHT a TO minus").contains("SET WEIGHT name n"));
        assert!(hint("SET WEIGHT a -1").contains("SET WEIGHT name n"));
        assert!(hint("SET WEIGHT").contains("SET WEIGHT name n"));
        assert!(hint("ACTIVATE a USING magic").contains("[USING replay]"));
        assert!(hint("PAUSE now").contains("Write PAUSE."));
        assert!(hint("DEACTIVATE ,").contains("DEACTIVATE name"));
        assert!(hint("\"PAUSE\"").contains("HELP"), "a name in quotes is no keyword");
        let mistake = parse("CREATE TABLE a (b int, c int)").expect_err("no command");
        assert_eq!(mistake.message, "unknown command \"CREATE TABLE a ( …\"");
    }

    #[test]
    fn capitals_count_only_where_they_must() {
        let names = ["db1", "DB2", "db2"];
        let find = |text, exact| name(text, exact).find(names.iter().copied());
        assert_eq!(find("DB1", false), Some(0));
        assert_eq!(find("DB1", true), None);
        assert_eq!(find("db2", false), Some(2));
        assert_eq!(find("Db2", false), None, "it could be either");
        assert_eq!(find("db3", false), None);
    }
}

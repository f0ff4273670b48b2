//! The files of the page on high availability, as they stand there, for machines that are here.

use std::path::Path;

use super::database::Kind;
use super::service;
use super::site::Want;

/// The page, whose files are used as they stand there.
const PAGE: &str = include_str!("../../../docs/high-availability.md");
/// Addresses in place of names; all times are the page's.
const HERE: [(&str, &str); 8] = [
    ("m1.example.com", "10.77.0.11"),
    ("m2.example.com", "10.77.0.12"),
    ("w1.example.com", "10.77.0.13"),
    ("10.0.0.100/24", "10.77.0.100/24"),
    ("\"10.0.0.11\"", "\"10.77.0.11\""),
    ("\"10.0.0.12\"", "\"10.77.0.12\""),
    ("[agent]", "[agent]\nwatchdog = \"off\""),
    ("[[vip]]", "[[vip]]\nprobe = \"50ms\""),
];

/// One of the page's files.
fn file(name: &str) -> String {
    let mark = format!("<!-- file: {name} -->");
    let at = PAGE.find(&mark).unwrap_or_else(|| panic!("the page has no {name}"));
    let mut lines = PAGE[at..].lines().skip(1);
    let fence = lines.next().unwrap();
    let indent = fence.len() - fence.trim_start().len();
    let inside = lines.take_while(|line| line.trim() != "```");
    inside.map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n").collect()
}

/// A file of the page with the words that its table has for MariaDB, where that is wanted.
fn file_for(kind: Kind, name: &str) -> String {
    let mut text = file(name);
    if kind == Kind::MariaDb {
        let at = PAGE.find("<!-- words: MariaDB -->").expect("the page's table of words");
        let rows = PAGE[at..].lines().skip(3).take_while(|line| line.starts_with('|'));
        for row in rows {
            let words: Vec<&str> = row.split('`').collect();
            text = text.replace(words[1], words[3]);
        }
    }
    text
}

/// What an administrator does on each server.
pub(super) fn roles(kind: Kind) -> String {
    file(if kind == Kind::MariaDb { "mariadb.sql" } else { "roles.sql" })
}

/// The file of a machine's proxy.
pub(super) fn proxy_file(number: usize, folder: &Path, want: &Want) -> String {
    let text = adapt(&file_for(want.kind, "lockstep.toml"), folder, "proxy-state");
    let (before, own) = text.split_at(text.find("[proxy]").unwrap());
    let address = format!("10.77.0.{}", 10 + number);
    let own = own.replace("\"m1\"", &format!("\"m{number}\"")).replace("10.77.0.11", &address);
    let text = format!("{before}{own}");
    let text = if want.three { with_third(&text) } else { text };
    match want.kind {
        Kind::Postgres => text,
        Kind::MariaDb => text + &adapt(&file("mariadb.toml"), folder, ""),
    }
}

/// What all machines have alike: secrets, the agents' file, the application.
pub(super) fn write_shared_files(folder: &Path, want: &Want) {
    let passwords = folder.join("etc");
    std::fs::create_dir(&passwords).unwrap();
    for (name, secret) in [
        ("admin.password", "admin"),
        ("app.password", "app"),
        ("agents.password", "agents"),
        ("witness.secret", "a secret of the witness"),
    ] {
        std::fs::write(passwords.join(name), secret).unwrap();
    }
    service::write(folder, &client(folder, want.kind));
    let mut agent = adapt(&file_for(want.kind, "agent.toml"), folder, "state");
    if want.three {
        agent = agent.replace("[[resource]]", "[[node]]\nname = \"m3\"\n[[resource]]");
    }
    agent =
        agent.replace("[[resource]]", "[[resource]]\nstart_retry = \"3s\"\nmin_role_time = \"1s\"");
    agent += "[log]\nlevel = \"info,lockstep::agent=debug\"\n";
    std::fs::write(folder.join("agent.toml"), agent).unwrap();
}

/// How the application connects: step 5 of the page.
fn client(folder: &Path, kind: Kind) -> String {
    match kind {
        Kind::Postgres => {
            let options = "-c lockstep.resource=shop -c lockstep.node=$LOCKSTEP_NODE \
                           -c lockstep.epoch=$LOCKSTEP_EPOCH";
            let place = "host=127.0.0.1,10.77.0.11,10.77.0.12 port=6432 user=app dbname=app";
            format!("env PGOPTIONS=\"{options}\" psql -qtA '{place}'")
        }
        // Its client takes one address: the first that answers.
        Kind::MariaDb => {
            let script = "client=\"mariadb --no-defaults -N --batch --unbuffered -u app -papp \
                          --connect-timeout=2 -P 6433 -D app\"\n\
                          for host in 10.77.0.1${LOCKSTEP_NODE#m} 10.77.0.11 10.77.0.12; do\n\
                          timeout 4 $client -h $host -e 'select 1' < /dev/null > /dev/null 2>&1 \
                          && exec $client -h $host\ndone\n";
            std::fs::write(folder.join("client"), script).unwrap();
            format!("bash {}", folder.join("client").display())
        }
    }
}

/// A file of the page, for this place.
fn adapt(text: &str, folder: &Path, state: &str) -> String {
    let mut text = text
        .replace("/etc/lockstep", &folder.join("etc").display().to_string())
        .replace("/var/lib/lockstep-agent", state)
        .replace("/var/lib/lockstep", state)
        .replace("/usr/local/bin/shop", &folder.join("service").display().to_string());
    for (there, here) in HERE {
        text = text.replace(there, here);
    }
    text
}

/// The third machine has a database, and there is no witness.
fn with_third(text: &str) -> String {
    let second = text.find("[[backend]]\nname = \"m2\"").expect("the second machine's");
    let end = second + text[second..].find("\n[[user]]").expect("the users behind it");
    let third = text[second..end].replace("\"m2\"", "\"m3\"").replace("10.77.0.12", "10.77.0.13");
    let text = format!("{}\n{third}{}", &text[..end], &text[end..]);
    let (before, witness) = text.split_at(text.find("[witness]").unwrap());
    let (_, rest) = witness.split_at(witness.find("[[resource]]").unwrap());
    format!("{before}{rest}")
}

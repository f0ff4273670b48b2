//! What an administrator sends when he asks for help: one text, with secrets taken out.
//!
//! Nothing here needs everything else to work: what cannot be had says why.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::clock;
use super::tool::{self, Tool};
use crate::config::agent::AgentConfig;

/// How many events of each resource are in it.
const EVENTS: u32 = 1000;
/// What the machine is asked, where it has such programs.
const QUESTIONS: [&[&str]; 6] = [
    &["uname", "-a"],
    &["ip", "address"],
    &["ip", "route"],
    &["systemctl", "status", "--no-pager", "lockstep-agent"],
    &["journalctl", "--no-pager", "-n", "5000", "-u", "lockstep-agent"],
    &["ps", "-eo", "pid,ppid,pgid,lstart,stat,comm"],
];
/// For the agent's page on this machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gathers everything; `path` is the configuration's.
pub async fn gather(config: &AgentConfig, path: &Path, node: &str) -> String {
    let mut text = String::new();
    let mut add = |title: &str, body: Result<String, String>| {
        let body = body.unwrap_or_else(|why| format!("cannot be had: {why}"));
        // Writing into a String cannot fail.
        let _ = writeln!(text, "===== {title} =====\n{}\n", body.trim_end());
    };
    let version = env!("CARGO_PKG_VERSION");
    add("lockstep agent", Ok(format!("version {version}, node {node}, {}", clock::wall())));
    let file = std::fs::read_to_string(path).map_err(|error| error.to_string());
    add("configuration", file.and_then(|text| masked(&text)));
    for resource in &config.resources {
        let name = &resource.name;
        match Tool::new(config, Some(name)) {
            Ok(mut tool) => {
                add(&format!("status of {name}"), tool.status(true).await);
                add(&format!("downtime of {name}"), tool.downtime(EVENTS).await);
                add(&format!("events of {name}"), tool.events(EVENTS).await);
            }
            Err(why) => add(&format!("status of {name}"), Err(why)),
        }
    }
    for page in ["/status", "/metrics"] {
        add(&format!("this machine's agent: {page}"), tool::page(config, page, PATIENCE));
    }
    add("state", state(&config.agent.state_dir));
    for words in QUESTIONS {
        let output = std::process::Command::new(words[0]).args(&words[1..]).output();
        let output = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        add(&words.join(" "), output.map_err(|error| error.to_string()));
    }
    text
}

/// Writes it to a file of which only its owner sees the contents.
///
/// # Errors
/// If it cannot be written, or is there already.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    let mut options = std::fs::File::options();
    let open = options.write(true).create_new(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// A configuration without its secrets.
fn masked(text: &str) -> Result<String, String> {
    let mut value: toml::Value = toml::from_str(text).map_err(|error| error.to_string())?;
    mask(&mut value);
    toml::to_string_pretty(&value).map_err(|error| error.to_string())
}

fn mask(value: &mut toml::Value) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                if ["password", "secret"].contains(&key.as_str()) {
                    *value = "***".into();
                } else {
                    mask(value);
                }
            }
        }
        toml::Value::Array(list) => list.iter_mut().for_each(mask),
        toml::Value::String(text) => {
            if let Some(open) = without_password(text) {
                *text = open;
            }
        }
        _ => {}
    }
}

/// A URL without the password in it; nothing where there is none. Programs may have one too.
fn without_password(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let (login, place) = rest.split_once('@')?;
    let (user, _) = login.split_once(':')?;
    Some(format!("{scheme}://{user}:***@{}", without_password(place).as_deref().unwrap_or(place)))
}

fn state(folder: &Path) -> Result<String, String> {
    let mut text = String::new();
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    for entry in entries.flatten() {
        let content = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let _ = writeln!(text, "{}: {}", entry.file_name().to_string_lossy(), content.trim());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_secret_gets_out() {
        let text = "[agent]\ndatabase = [\"postgresql://me:s3cret@db/x?a=b\", \"mysql://me@db/x\"]\n\
                    password = \"s3cret\"\npassword_file = \"/etc/file\"\n\
                    [[alert]]\nsecret = \"s3cret\"\nto = [\"ops@example.com\"]\n\
                    [[service]]\ncommand = \"run --url postgresql://a:s3cret@b/c\"\n";
        let masked = super::masked(text).expect("TOML");
        assert!(!masked.contains("s3cret"), "{masked}");
        for kept in ["me:***@db/x?a=b", "mysql://me@db", "/etc/file", "ops@example.com", "@b/c"] {
            assert!(masked.contains(kept), "{kept}: {masked}");
        }
    }
}

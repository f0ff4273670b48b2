//! Who logs in where, and the passwords for it.

use std::collections::BTreeSet;
use std::path::Path;

use super::raw::{RawCredentials, RawUser};
use super::{AuthMethod, Backend, Cluster, Config, ConfigError, Credentials, Secret, User};

type Result<T> = std::result::Result<T, ConfigError>;

pub(super) fn shared_admin(backends: &[Backend]) -> Result<Credentials> {
    let mut admins = backends.iter().map(|backend| backend.admin.clone());
    let first = admins.next().flatten().filter(|_| admins.all(|admin| admin.is_some()));
    first.ok_or_else(|| {
        ConfigError::new(
            "no admin is named",
            "add `admin = { user = \"…\", password_file = \"…\" }`: a superuser on every backend",
        )
    })
}

pub(super) fn credentials(raw: RawCredentials, key: &str, folder: &Path) -> Result<Credentials> {
    if raw.user.is_empty() {
        let problem = "the user's name is empty";
        return Err(ConfigError::new(problem, "name a role").at(format!("{key}.user")));
    }
    let password =
        secret(raw.password, raw.password_file, raw.password_env, key, folder)?.unwrap_or_default();
    Ok(Credentials { user: raw.user, password })
}

pub(super) fn users(raw: Vec<RawUser>, cluster: &Cluster, folder: &Path) -> Result<Vec<User>> {
    if raw.is_empty() {
        return Err(ConfigError::new(
            "no user is named, so nobody could log in",
            "add a `[[user]]` with `name` and `password_file` for each role of the application",
        ));
    }
    let mut seen = BTreeSet::new();
    let mut users = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("user.{index}");
        if raw.name.is_empty() || !seen.insert(raw.name.clone()) {
            let problem = format!("the user `{}` is empty or named twice", raw.name);
            return Err(ConfigError::new(problem, "name each user once").at(format!("{key}.name")));
        }
        let password = secret(raw.password, raw.password_file, raw.password_env, &key, folder)?
            .unwrap_or_default();
        if password.is_empty() && raw.auth.unwrap_or(cluster.auth) != AuthMethod::Trust {
            let problem = format!("the user `{}` has no password", raw.name);
            let remedy = "add `password_file`, `password_env` or `password`; or `auth = \"trust\"`";
            return Err(ConfigError::new(problem, remedy).at(key));
        }
        if raw.max_connections == Some(0) {
            let problem = format!("the user `{}` may have no connection at all", raw.name);
            return Err(ConfigError::new(problem, "leave `max_connections` out for no limit")
                .at(format!("{key}.max_connections")));
        }
        let (max_connections, auth) = (raw.max_connections, raw.auth);
        users.push(User { name: raw.name, password, max_connections, auth });
    }
    Ok(users)
}

/// At most one of the three ways to give a password.
pub(super) fn secret(
    plain: Option<String>,
    file: Option<String>,
    variable: Option<String>,
    key: &str,
    folder: &Path,
) -> Result<Option<Secret>> {
    match (plain, file, variable) {
        (None, None, None) => Ok(None),
        (Some(plain), None, None) => Ok(Some(Secret::new(plain))),
        (None, Some(file), None) => {
            let file = folder.join(file);
            let text = std::fs::read_to_string(&file).map_err(|error| {
                let problem = format!("{} cannot be read: {error}", file.display());
                let remedy = "write the password, alone, into that file, readable by lockstep";
                ConfigError::new(problem, remedy).at(format!("{key}.password_file"))
            })?;
            Ok(Some(Secret::new(text.strip_suffix('\n').unwrap_or(&text).trim_end_matches('\r'))))
        }
        (None, None, Some(variable)) => {
            std::env::var(&variable).map(Secret::new).map(Some).map_err(|_| {
                let problem = format!("the environment has no variable `{variable}`");
                let remedy = format!("start lockstep with `{variable}` set");
                ConfigError::new(problem, remedy).at(format!("{key}.password_env"))
            })
        }
        _ => Err(ConfigError::new(
            "a password is given in more than one way",
            "keep one of `password`, `password_file`, `password_env`",
        )
        .at(key)),
    }
}

/// Names that point to something must point to something that exists.
pub(super) fn references(config: &Config) -> Result<()> {
    let known = |name: &String| config.users.iter().any(|user| user.name == *name);
    for user in &config.cluster.console_users {
        if !known(user) && *user != config.admin.user {
            let problem = format!("console user `{user}` is not among the users");
            let remedy = format!("add a `[[user]]` with `name = \"{user}\"`");
            return Err(ConfigError::new(problem, remedy).at("cluster.console_users"));
        }
    }
    for (index, backend) in config.backends.iter().enumerate() {
        if let Some(user) = backend.users.keys().find(|name| !known(name)) {
            let problem =
                format!("backend `{}` has a login for `{user}`, who is no user", backend.name);
            let remedy = format!("add a `[[user]]` with `name = \"{user}\"`");
            return Err(
                ConfigError::new(problem, remedy).at(format!("backend.{index}.users.{user}"))
            );
        }
    }
    Ok(())
}

//! Where a backend is: `host:port`, or a connection URL as applications write them.

use lockstep_protocol::Dialect;

/// The parts of a backend's address; what the text leaves out is `None`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Address {
    /// What kind of database it is, where a URL says so.
    pub dialect: Option<Dialect>,
    pub host: String,
    pub port: Option<u16>,
    pub database: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub sslmode: Option<String>,
    pub sslrootcert: Option<String>,
}

/// Reads `host`, `host:port`, `[::1]:port` or `postgresql://user:password@host:port/database`; with
/// `mysql://` or `mariadb://` the same for those.
pub(super) fn parse(text: &str) -> Result<Address, String> {
    match text.split_once("://") {
        None => host_port(text),
        Some(("postgresql" | "postgres", rest)) => url(rest, Dialect::Postgres),
        Some(("mysql" | "mariadb", rest)) => url(rest, Dialect::MySql),
        Some((scheme, _)) => Err(format!("`{scheme}://` is not a kind of database known here")),
    }
}

fn url(rest: &str, dialect: Dialect) -> Result<Address, String> {
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login), host),
        None => (None, authority),
    };
    let mut address = Address { dialect: Some(dialect), ..host_port(host)? };
    if let Some(login) = login {
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        address.user = Some(decode(user)?);
        address.password = password.map(decode).transpose()?;
    }
    if !database.is_empty() {
        address.database = Some(decode(database)?);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => address.sslmode = Some(decode(value)?),
            Some(("sslrootcert", value)) => address.sslrootcert = Some(decode(value)?),
            _ => return Err(format!("the parameter `{pair}` means nothing to lockstep")),
        }
    }
    Ok(address)
}

fn host_port(text: &str) -> Result<Address, String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("an opening `[` has no closing `]`")?;
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(format!("`{after}` stands after the host")),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address needs brackets: [::1]:5432".into());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() || host.contains(['/', ' ', ',']) {
        return Err(format!("`{host}` is no host name or IP address"));
    }
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("the port must be a number from 1 to 65535".into()),
    };
    Ok(Address { host: host.to_owned(), port, ..Address::default() })
}

/// Undoes `%40` and the like, which URLs need for `@`, `:` and `/` in a password.
fn decode(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` has a `%` that does not start a two-digit code");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (code, after) = rest.split_at_checked(2).ok_or_else(wrong)?;
        let code = std::str::from_utf8(code).map_err(|_| wrong())?;
        bytes.push(u8::from_str_radix(code, 16).map_err(|_| wrong())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| format!("`{text}` is not UTF-8 when decoded"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_forms_are_read() {
        let plain = parse("db1:5433").expect("plain");
        assert_eq!((plain.host.as_str(), plain.port), ("db1", Some(5433)));
        assert_eq!(parse("db1").expect("bare").port, None);
        assert_eq!(parse("[::1]:5432").expect("v6").host, "::1");
        let full = parse("postgres://jo%40x:p%3Aw@db1:5433/app?sslmode=require").expect("full");
        assert_eq!(full.user.as_deref(), Some("jo@x"));
        assert_eq!(full.password.as_deref(), Some("p:w"));
        assert_eq!(full.database.as_deref(), Some("app"));
        assert_eq!(full.sslmode.as_deref(), Some("require"));
        assert_eq!((plain.dialect, full.dialect), (None, Some(Dialect::Postgres)));
        for text in ["mysql://root@db1/app", "mariadb://db1:3307"] {
            assert_eq!(parse(text).expect("mysql").dialect, Some(Dialect::MySql));
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_refused() {
        for text in [
            "",
            ":5432",
            "db1:",
            "db1:0",
            "db1:70000",
            "::1:5432",
            "[::1",
            "oracle://db1",
            "postgresql:///app",
            "postgresql://db1,db2/app",
            "postgresql://db1/app?x=y",
            "postgresql://a%zz@db1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

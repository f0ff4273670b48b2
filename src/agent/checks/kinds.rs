//! The kinds of checks: each looks once, and says what it saw.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::agent::lease::Lane;
use crate::agent::program;
use crate::config::agent::{CheckKind, Vip, VipWay};

/// Looks once: what was seen, or what is wrong.
pub(super) async fn look(kind: &CheckKind, timeout: Duration) -> Result<String, String> {
    let late = |_| format!("no answer within {timeout:?}");
    match kind {
        CheckKind::Tcp { address } => {
            let connecting = TcpStream::connect(address.as_str());
            let connected = tokio::time::timeout(timeout, connecting).await.map_err(late)?;
            connected.map(|_| "connected".into()).map_err(|error| format!("{address}: {error}"))
        }
        CheckKind::Http { url, status, body } => {
            let (url, status, body) = (url.clone(), *status, body.clone());
            blocking(move || http(&url, status, body.as_deref(), timeout)).await
        }
        CheckKind::Sql { store, query, expect } => {
            let mut lane = Lane::new(std::slice::from_ref(&**store), timeout, timeout);
            let asked = tokio::time::timeout(timeout, lane.ask(query)).await.map_err(late)??;
            match (asked, expect) {
                (Some(value), Some(wanted)) if value != *wanted => {
                    Err(format!("it answers `{value}` instead of `{wanted}`"))
                }
                (None, Some(wanted)) => Err(format!("it answers nothing instead of `{wanted}`")),
                (value, _) => Ok(value.unwrap_or_else(|| "no rows".into())),
            }
        }
        CheckKind::Exec { command } => {
            let ended = program::run(command, &[], timeout).await?;
            match ended.code {
                Some(0) => Ok(ended.output),
                Some(1) => Ok(format!("warning: {}", ended.output)),
                _ => ended.success(),
            }
        }
        CheckKind::Vip { vips } => {
            let vips = vips.clone();
            blocking(move || nobody_else(&vips)).await
        }
        CheckKind::Ping { targets } => {
            let targets = targets.clone();
            blocking(move || ping_any(&targets, timeout)).await
        }
        CheckKind::Process { .. }
        | CheckKind::Route { .. }
        | CheckKind::Link { .. }
        | CheckKind::Disk { .. }
        | CheckKind::Load { .. }
        | CheckKind::File { .. } => {
            let kind = kind.clone();
            blocking(move || local(&kind)).await
        }
    }
}

async fn blocking(
    look: impl FnOnce() -> Result<String, String> + Send + 'static,
) -> Result<String, String> {
    tokio::task::spawn_blocking(look).await.map_err(|error| error.to_string())?
}

fn http(url: &str, status: u16, body: Option<&str>, timeout: Duration) -> Result<String, String> {
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .build()
        .new_agent();
    let mut answer = agent.get(url).call().map_err(|error| error.to_string())?;
    let got = answer.status().as_u16();
    if got != status {
        return Err(format!("{url} answers {got} instead of {status}"));
    }
    if let Some(wanted) = body {
        let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        if !text.contains(wanted) {
            return Err(format!("{url}: its body lacks `{wanted}`"));
        }
    }
    Ok(format!("{got}"))
}

/// Whether nobody else answers for addresses that this node has. Its own kernel does not answer
/// what it asks itself.
fn nobody_else(vips: &[Vip]) -> Result<String, String> {
    for vip in vips {
        let VipWay::Interface { name, probe, .. } = &vip.way else { continue };
        let place = crate::agent::vip::place(vip.address, vip.prefix, name.as_deref())?;
        if let Some(owner) = crate::agent::vip::in_use_by(&place, *probe)? {
            return Err(format!("{owner} answers for {} too", vip.address));
        }
    }
    Ok("nobody else answers".into())
}

fn ping_any(targets: &[IpAddr], timeout: Duration) -> Result<String, String> {
    let each = timeout / u32::try_from(targets.len().max(1)).unwrap_or(1);
    let mut problems = Vec::new();
    for target in targets {
        match ping(*target, each) {
            Ok(()) => return Ok(format!("{target} answers")),
            Err(error) => problems.push(format!("{target}: {error}")),
        }
    }
    Err(problems.join("; "))
}

/// One echo request (RFC 792, RFC 4443), and its reply.
fn ping(target: IpAddr, timeout: Duration) -> std::io::Result<()> {
    let (domain, protocol, request, reply) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    // Without privileges where the kernel allows it, else with them.
    let plain = Socket::new(domain, Type::DGRAM, Some(protocol));
    let socket = plain.or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)))?;
    let mark: [u8; 8] = rand::random();
    let mut packet = vec![request, 0, 0, 0, mark[0], mark[1], 0, 1];
    packet.extend(mark);
    // The kernel computes the checksum for IPv6.
    if target.is_ipv4() {
        let sum = crate::agent::vip::checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    socket.set_read_timeout(Some(timeout.max(Duration::from_millis(10))))?;
    socket.connect(&SocketAddr::new(target, 0).into())?;
    socket.send(&packet)?;
    let mut buffer = [0; 1500];
    // Others' replies may come by on a raw socket, which also has IPv4's header in front.
    for _ in 0..64 {
        let count = (&socket).read(&mut buffer)?;
        let got = &buffer[..count];
        let message = match got.first() {
            Some(0x45) if target.is_ipv4() => got.get(20..).unwrap_or_default(),
            _ => got,
        };
        if message.first() == Some(&reply) && message.ends_with(&mark) {
            return Ok(());
        }
    }
    Err(std::io::Error::other("only other answers came"))
}

/// What this machine itself knows.
fn local(kind: &CheckKind) -> Result<String, String> {
    match kind {
        CheckKind::Process { pidfile, name, at_least } => {
            process(pidfile.as_deref(), name.as_deref(), *at_least)
        }
        CheckKind::Route { interface } => route(interface.as_deref()),
        CheckKind::Link { interface } => link(interface),
        CheckKind::Disk { path, free_percent } => disk(path, *free_percent),
        CheckKind::Load { most } => load(*most),
        CheckKind::File { path, max_age } => file(path, *max_age),
        _ => Err("this is looked at elsewhere".into()),
    }
}

fn read(path: impl AsRef<Path>) -> Result<String, String> {
    let path = path.as_ref();
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn process(pidfile: Option<&Path>, name: Option<&str>, at_least: usize) -> Result<String, String> {
    let comm = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    if let Some(pidfile) = pidfile {
        let pid = read(pidfile)?;
        let pid = pid.trim();
        let comm = comm(pid).ok_or_else(|| format!("process {pid} of the pidfile is gone"))?;
        if name.is_some_and(|name| comm.trim() != name) {
            return Err(format!("process {pid} of the pidfile is {}", comm.trim()));
        }
        return Ok(format!("process {pid} lives"));
    }
    let name = name.unwrap_or_default();
    let all = std::fs::read_dir("/proc").map_err(|error| error.to_string())?;
    let pids = all.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let count = pids.filter(|pid| comm(pid).is_some_and(|comm| comm.trim() == name)).count();
    if count < at_least {
        return Err(format!("{count} processes {name} instead of {at_least}"));
    }
    Ok(format!("{count} processes"))
}

/// A default route in the kernel's tables, which is up.
fn route(interface: Option<&str>) -> Result<String, String> {
    const UP: u32 = 1;
    let fits = |name: &str| interface.is_none_or(|wanted| wanted == name);
    let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v4 = table.lines().skip(1).find_map(|line| {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let [name, to, gateway, flags, ..] = parts[..] else { return None };
        let up = u32::from_str_radix(flags, 16).ok()? & UP != 0;
        (to == "00000000" && gateway != "00000000" && up && fits(name)).then(|| name.to_owned())
    });
    let table = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let v6 = || {
        table.lines().find_map(|line| {
            let parts: Vec<&str> = line.split_whitespace().collect();
            let default = parts.first().is_some_and(|to| to.chars().all(|c| c == '0'))
                && parts.get(1) == Some(&"00");
            let name = parts.last()?;
            (default && *name != "lo" && fits(name)).then(|| (*name).to_owned())
        })
    };
    v4.or_else(v6)
        .map(|name| format!("by {name}"))
        .ok_or_else(|| "there is no default route".into())
}

fn link(interface: &str) -> Result<String, String> {
    let state = read(format!("/sys/class/net/{interface}/operstate"))?;
    match state.trim() {
        "up" | "unknown" => Ok(state.trim().to_owned()),
        other => Err(format!("{interface} is {other}")),
    }
}

/// Room, and whether a byte gets to the disk: a filesystem that went read-only shows here.
fn disk(path: &Path, free_percent: u8) -> Result<String, String> {
    let shown = path.display();
    let stat = rustix::fs::statvfs(path).map_err(|error| format!("{shown}: {error}"))?;
    let free = stat.f_bavail * 100 / stat.f_blocks.max(1);
    if free < u64::from(free_percent) {
        return Err(format!("{shown}: {free} % are free, {free_percent} % should be"));
    }
    let probe = path.join(format!(".lockstep-check-{}", std::process::id()));
    let written = std::fs::write(&probe, b"x")
        .and_then(|()| std::fs::File::open(&probe)?.sync_all())
        .map_err(|error| format!("{shown}: {error}"));
    let _ = std::fs::remove_file(&probe);
    written.map(|()| format!("{free} % are free"))
}

fn load(most: f64) -> Result<String, String> {
    let text = read("/proc/loadavg")?;
    let load: f64 = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or("/proc/loadavg has no number")?;
    let processors = std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
    let each = load / processors;
    if each > most { Err(format!("{each:.2}, more than {most}")) } else { Ok(format!("{each:.2}")) }
}

fn file(path: &Path, max_age: Option<Duration>) -> Result<String, String> {
    let shown = path.display();
    let about = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    let Some(max_age) = max_age else { return Ok("it is there".into()) };
    // A file from the future is new.
    let age = about.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
    if age > max_age {
        return Err(format!("{shown} is {} s old", age.as_secs()));
    }
    Ok(format!("{} s old", age.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn what_this_machine_knows() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("there");
        std::fs::write(&file, "x").expect("written");
        let pidfile = folder.path().join("pid");
        std::fs::write(&pidfile, format!("{}\n", std::process::id())).expect("written");
        let well = [
            CheckKind::File { path: file.clone(), max_age: Some(SECOND * 100) },
            CheckKind::Disk { path: folder.path().into(), free_percent: 0 },
            CheckKind::Load { most: 1e6 },
            CheckKind::Process { pidfile: Some(pidfile), name: None, at_least: 1 },
            CheckKind::Link { interface: "lo".into() },
            CheckKind::Ping { targets: vec!["127.0.0.1".parse().expect("an address")] },
            CheckKind::Exec { command: ["sh", "-c", "exit 1"].map(String::from).to_vec() },
        ];
        for kind in well {
            let saw = look(&kind, SECOND).await;
            assert!(saw.is_ok(), "{kind:?}: {saw:?}");
        }
        let ill = [
            CheckKind::File { path: folder.path().join("missing"), max_age: None },
            CheckKind::Disk { path: folder.path().into(), free_percent: 101 },
            CheckKind::Load { most: -1.0 },
            CheckKind::Process { pidfile: None, name: Some("no such".into()), at_least: 1 },
            CheckKind::Link { interface: "no-such-link".into() },
            CheckKind::Route { interface: Some("no-such-link".into()) },
            CheckKind::Exec { command: ["sh", "-c", "exit 2"].map(String::from).to_vec() },
        ];
        for kind in ill {
            let saw = look(&kind, SECOND).await;
            assert!(saw.is_err(), "{kind:?}: {saw:?}");
        }
    }

    #[tokio::test]
    async fn what_the_network_answers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let page = axum::Router::new().route("/", axum::routing::get(|| async { "all is well" }));
        let server = tokio::spawn(axum::serve(listener, page).into_future());
        let url = format!("http://{address}/");
        let http = |status, body: &str| CheckKind::Http {
            url: url.clone(),
            status,
            body: Some(body.to_owned()),
        };
        assert!(look(&http(200, "well"), SECOND).await.is_ok());
        let wrong = look(&http(200, "ill"), SECOND).await.expect_err("the body");
        assert!(wrong.contains("lacks `ill`"), "{wrong}");
        let wrong = look(&http(204, "well"), SECOND).await.expect_err("the status");
        assert!(wrong.contains("200 instead of 204"), "{wrong}");
        let tcp = CheckKind::Tcp { address: address.to_string() };
        assert!(look(&tcp, SECOND).await.is_ok());
        server.abort();
        let _ = server.await;
        assert!(look(&tcp, SECOND).await.is_err());
    }
}

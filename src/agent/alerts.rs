//! Telling people: by a program, a request, or mail. Each way has a queue and a task of its own, so
//! that one that is slow holds up neither the others nor the election.

use std::time::Duration;

use hmac::{Hmac, Mac};
use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use serde::Serialize;
use sha2::Sha256;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::program;
use crate::config::Secret;
use crate::config::agent::{Alert, AlertWay};
use crate::hex;

/// Alerts that wait for one way; the next is dropped, with a line in the log.
const QUEUE: usize = 256;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Told {
    /// What happened: a word.
    pub event: String,
    /// To which resource.
    pub resource: String,
    /// Who says so.
    pub node: String,
    /// In which term.
    pub epoch: i64,
    /// Where the node stood before.
    pub from: String,
    /// Where it stands now.
    pub to: String,
    /// More about it.
    pub reason: String,
    /// When, by the node's wall clock.
    pub happened: String,
}

/// All ways to tell people.
#[derive(Debug, Clone)]
pub struct Herald {
    ways: Vec<(Vec<String>, String, mpsc::Sender<Told>)>,
}

impl Herald {
    /// Starts a task for each way; they end with the herald's last clone, after what is queued.
    #[must_use]
    pub fn start(alerts: &[Alert], tasks: &TaskTracker) -> Self {
        let ways = alerts.iter().map(|alert| {
            let (to, queue) = mpsc::channel(QUEUE);
            tasks.spawn(deliver(alert.clone(), queue));
            (alert.events.clone(), alert.name.clone(), to)
        });
        Self { ways: ways.collect() }
    }

    /// Tells whoever wants to know.
    pub fn tell(&self, told: &Told) {
        for (events, name, to) in &self.ways {
            let wanted = events.is_empty() || events.contains(&told.event);
            if wanted && to.try_send(told.clone()).is_err() {
                tracing::warn!(alert = name, event = told.event, "too many alerts wait: dropped");
            }
        }
    }
}

async fn deliver(alert: Alert, mut queue: mpsc::Receiver<Told>) {
    while let Some(told) = queue.recv().await {
        for attempt in 1..=alert.attempts {
            let sending = tokio::time::timeout(alert.timeout, send(&alert, &told)).await;
            let late = |_| Err(format!("not sent within {:?}", alert.timeout));
            match sending.unwrap_or_else(late) {
                Ok(()) => break,
                Err(why) if attempt == alert.attempts => {
                    tracing::error!(alert = alert.name, event = told.event, why, "nobody was told");
                }
                Err(why) => {
                    tracing::warn!(alert = alert.name, attempt, why, "trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn send(alert: &Alert, told: &Told) -> Result<(), String> {
    match &alert.way {
        AlertWay::Exec { command } => {
            let ended = program::run(command, &environment(told), alert.timeout).await?;
            ended.success().map(drop)
        }
        AlertWay::Webhook { url, secret } => {
            let (url, secret, timeout) = (url.clone(), secret.clone(), alert.timeout);
            let body = serde_json::to_string(told).map_err(|error| error.to_string())?;
            let posting = move || post(&url, &secret, &body, timeout);
            tokio::task::spawn_blocking(posting).await.map_err(|error| error.to_string())?
        }
        AlertWay::Smtp { server, tls, user, password, from, to } => {
            mail(server, tls, user, password, from, to, told).await
        }
    }
}

/// The event as programs see it.
#[must_use]
pub fn environment(told: &Told) -> Vec<(String, String)> {
    [
        ("LOCKSTEP_EVENT", told.event.clone()),
        ("LOCKSTEP_RESOURCE", told.resource.clone()),
        ("LOCKSTEP_NODE", told.node.clone()),
        ("LOCKSTEP_EPOCH", told.epoch.to_string()),
        ("LOCKSTEP_FROM", told.from.clone()),
        ("LOCKSTEP_TO", told.to.clone()),
        ("LOCKSTEP_REASON", told.reason.clone()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}

fn post(url: &str, secret: &Secret, body: &str, timeout: Duration) -> Result<(), String> {
    let agent = ureq::Agent::config_builder().timeout_global(Some(timeout)).build().new_agent();
    let mut request = agent.post(url).header("content-type", "application/json");
    if !secret.is_empty() {
        request = request.header("x-lockstep-signature", signature(secret, body));
    }
    request.send(body).map(drop).map_err(|error| error.to_string())
}

fn signature(secret: &Secret, body: &str) -> String {
    // HMAC takes a key of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.reveal().as_bytes()) else {
        return String::new();
    };
    mac.update(body.as_bytes());
    format!("sha256={}", hex::encode(&mac.finalize().into_bytes()))
}

async fn mail(
    server: &str,
    tls: &str,
    user: &str,
    password: &Secret,
    from: &str,
    to: &[String],
    told: &Told,
) -> Result<(), String> {
    type Smtp = AsyncSmtpTransport<Tokio1Executor>;
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) => {
            (host, Some(port.parse::<u16>().map_err(|_| format!("`{port}` is no port"))?))
        }
        None => (server, None),
    };
    let transport = match tls {
        "tls" => Smtp::relay(host).map_err(|error| error.to_string())?,
        "starttls" => Smtp::starttls_relay(host).map_err(|error| error.to_string())?,
        _ => Smtp::builder_dangerous(host),
    };
    let transport = match port {
        Some(port) => transport.port(port),
        None => transport,
    };
    let transport = if user.is_empty() {
        transport
    } else {
        transport.credentials(Credentials::new(user.into(), password.reveal().into()))
    };
    let mailbox = |text: &str| {
        text.parse::<Mailbox>().map_err(|error| format!("`{text}` is no mail address: {error}"))
    };
    let Told { event, resource, node, epoch, from: was, to: is, reason, happened } = told;
    let mut message = Message::builder()
        .from(mailbox(from)?)
        .subject(format!("[lockstep] {resource}: {event} on {node}"));
    for receiver in to {
        message = message.to(mailbox(receiver)?);
    }
    let text = format!(
        "{reason}\n\nresource: {resource}\nnode:     {node}\nevent:    {event}\nfrom:     {was}\n\
         to:       {is}\nepoch:    {epoch}\nwhen:     {happened}\n"
    );
    let message = message.body(text).map_err(|error| error.to_string())?;
    transport.build().send(message).await.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    fn told() -> Told {
        Told {
            event: "started".into(),
            resource: "shop".into(),
            node: "n1".into(),
            epoch: 7,
            from: "starting".into(),
            to: "master".into(),
            reason: "the services are up".into(),
            happened: "now".into(),
        }
    }

    fn alert(way: AlertWay) -> Alert {
        let timeout = Duration::from_secs(5);
        Alert { name: "test".into(), events: vec!["started".into()], timeout, attempts: 1, way }
    }

    async fn tell(way: AlertWay) {
        let tasks = TaskTracker::new();
        let herald = Herald::start(&[alert(way)], &tasks);
        herald.tell(&Told { event: "unwanted".into(), ..told() });
        herald.tell(&told());
        drop(herald);
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_program_sees_the_event() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("seen");
        let script =
            format!("echo $LOCKSTEP_EVENT $LOCKSTEP_EPOCH $LOCKSTEP_TO >> {}", file.display());
        tell(AlertWay::Exec { command: vec!["sh".into(), "-c".into(), script] }).await;
        assert_eq!(std::fs::read_to_string(&file).expect("it ran"), "started 7 master\n");
    }

    #[tokio::test]
    async fn a_webhook_gets_signed_json() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&seen);
        let hook = move |headers: axum::http::HeaderMap, body: String| {
            let signed = headers["x-lockstep-signature"].to_str().unwrap_or_default().to_owned();
            to.lock().expect("not poisoned").push((signed, body));
            async { "thanks" }
        };
        let page = axum::Router::new().route("/hook", axum::routing::post(hook));
        let server = tokio::spawn(axum::serve(listener, page).into_future());
        tell(AlertWay::Webhook { url, secret: Secret::new("key") }).await;
        server.abort();
        let seen = seen.lock().expect("not poisoned").clone();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].0, signature(&Secret::new("key"), &seen[0].1));
        let body: serde_json::Value = serde_json::from_str(&seen[0].1).expect("JSON");
        assert_eq!((&body["event"], &body["epoch"]), (&"started".into(), &7.into()));
        // RFC 4231 has the test vector.
        let vector = signature(&Secret::new("Jefe"), "what do ya want for nothing?");
        assert!(vector.starts_with("sha256=5bdcc146bf60754e6a042426089575c7"), "{vector}");
    }

    /// As much of RFC 5321 as one mail needs.
    async fn sink(listener: TcpListener) -> String {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        let mut mail = String::new();
        let mut inside = false;
        write.write_all(b"220 sink\r\n").await.expect("greeted");
        while let Ok(Some(line)) = lines.next_line().await {
            let answer: &[u8] = if inside {
                if line != "." {
                    mail.push_str(&line);
                    mail.push('\n');
                    continue;
                }
                inside = false;
                b"250 kept\r\n"
            } else if line == "DATA" {
                inside = true;
                b"354 go on\r\n"
            } else if line == "QUIT" {
                b"221 bye\r\n"
            } else {
                b"250 fine\r\n"
            };
            if write.write_all(answer).await.is_err() || line == "QUIT" {
                break;
            }
        }
        mail
    }

    #[tokio::test]
    async fn a_mail_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let server = listener.local_addr().expect("an address").to_string();
        let way = AlertWay::Smtp {
            server,
            tls: "none".into(),
            user: String::new(),
            password: Secret::default(),
            from: "lockstep@example.com".into(),
            to: vec!["ops@example.com".into()],
        };
        let telling = async {
            tell(way).await;
            // The connection is kept for the next mail until its owner goes.
        };
        let (mail, ()) = tokio::join!(sink(listener), telling);
        assert!(mail.contains("Subject: [lockstep] shop: started on n1"), "{mail}");
        assert!(mail.contains("the services are up"), "{mail}");
    }
}

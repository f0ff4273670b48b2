//! A client that has come to a proxy that stands by is connected through to the one that writes.
//!
//! Bytes go to and fro as they are, from the start-up message on: the client proves who it is to the proxy that
//! serves it. The way ends when another proxy writes than at its beginning.

use std::sync::Arc;

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::time::Instant;

use super::house::House;
use super::pg::Pg;
use crate::backend::pg::Route;
use crate::client::pg::{Passage, Signpost, Whither, forwarded_cancel, not_here};
use crate::config::OnStandby;
use crate::net::Stream;
use crate::tls::BackendConnector;

/// The way to the proxy that writes; nothing when it has told no address.
fn route(house: &House<Pg>) -> Option<Result<Route, String>> {
    let writer = house.shared.keeper.writer();
    let (host, port) = writer.rsplit_once(' ')?.1.rsplit_once(':')?;
    let config = house.config.load();
    let tls = BackendConnector::new(&config.proxy.peer_tls, host).map_err(|e| e.to_string());
    let port = port.parse().ok()?;
    Some(tls.map(|tls| Route {
        host: host.to_owned(),
        port,
        tls,
        timeout: config.timeouts.connect,
        user_timeout: config.timeouts.dead_after,
    }))
}

async fn open(house: &House<Pg>) -> Result<Stream, String> {
    let route = route(house).ok_or("its address is not known")??;
    let opened = tokio::time::timeout(route.timeout, route.open()).await;
    opened.map_err(|_| format!("no answer within {:?}", route.timeout))?.map_err(|e| e.to_string())
}

/// Where clients are served at this moment. While the proxy that writes cannot be reached, whoever comes waits for as
/// long as it takes until it is taken for dead and another one writes.
impl Signpost for House<Pg> {
    async fn look(&self, database: &str, forwarded: bool) -> Whither {
        let keeper = &self.shared.keeper;
        let config = self.config.load_full();
        let patience = Instant::now() + config.proxy.takeover_after * 2;
        loop {
            let changes = keeper.following();
            let Some(writer) = self.stands_by(database) else {
                return Whither::Here;
            };
            if forwarded || config.proxy.on_standby != OnStandby::Forward {
                return Whither::Nowhere(not_here(&writer));
            }
            let why = match open(self).await {
                Ok(far) => return Whither::There(far),
                Err(why) => why,
            };
            if tokio::time::timeout_at(patience, changes.cancelled()).await.is_err() {
                tracing::warn!(%writer, %why, "a client could not be connected through");
                let detail = format!("It cannot be reached: {why}");
                return Whither::Nowhere(not_here(&writer).detail(detail));
            }
        }
    }
}

/// Connects a client through until either side ends, or until another proxy writes.
pub(super) async fn pass(house: &Arc<House<Pg>>, passage: Passage) {
    let ends = house.shared.keeper.following();
    let gauge = &house.shared.metrics.proxy_forwarded_sessions;
    let Passage { mut stream, mut far, said } = passage;
    gauge.inc();
    let carried = async {
        far.write_all(&said).await?;
        far.flush().await?;
        copy_bidirectional(&mut stream, &mut far).await
    };
    let stop = house.stop.clone();
    tokio::select! {
        ended = carried => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a client that was connected through is gone");
            }
        }
        () = ends.cancelled() => tracing::debug!("another proxy writes: a client connects again"),
        () = stop.cancelled() => {}
    }
    gauge.dec();
}

/// Hands a request to cancel on.
pub(super) async fn cancel(house: &Arc<House<Pg>>, number: u32, secret: &[u8]) {
    if house.stands_by("").is_none() {
        return;
    }
    let sent = async {
        let mut far = open(house).await?;
        far.write_all(&forwarded_cancel(number, secret)).await.map_err(|e| e.to_string())?;
        far.shutdown().await.map_err(|e| e.to_string())
    };
    if let Err(why) = sent.await {
        tracing::debug!(%why, "a request to cancel could not be handed on");
    }
}

//! Placeholder while the console is being written.
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use crate::exchange::{Protocol, Client, Sink, TxState};
use crate::session::Shared;
use crate::trace::Level;
use crate::cluster::State;
type Reload = Box<dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;
type Cfg = Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>;
pub struct Levers;
impl Levers { pub fn new(_r: Reload, _s: CancellationToken, _l: Option<Level>, _c: Cfg) -> Self { Self } }
pub async fn serve<P: Protocol>(s: Arc<Shared<P>>, _l: Arc<Levers>, mut c: P::Client, _t: CancellationToken) {
    while let Ok(b) = c.next().await {
        for i in &b.items {
            let t = i.text.as_ref().map(|t| t.sql.to_lowercase()).unwrap_or_default();
            let w: Vec<&str> = t.trim_end_matches(';').split_whitespace().collect();
            let find = |n: &str| s.backends.iter().position(|b| b.name == n).unwrap_or(0);
            if let ["deactivate", n] = w[..] {
                let _ = s.keeper.deactivate(find(n)).await; c.answer(&i.work, "DEACTIVATE"); continue;
            }
            if let ["activate", n] = w[..] {
                s.keeper.release(find(n)).await; s.activate.notify_one(); c.answer(&i.work, "ACTIVATE"); continue;
            }
            let v = s.keeper.view();
            let rows: Vec<Vec<Option<String>>> = s.backends.iter().enumerate().map(|(n, b)| {
                let m = &v.backends[n];
                let lag = if let State::CatchingUp { remaining } = m.state { remaining.to_string() } else { String::new() };
                let role = if v.leader() == Some(n) { "leader" } else if v.is_member(n) { "follower" } else { "-" };
                [b.name.clone(), b.address.clone(), m.state.word().into(), role.into(), b.weight().to_string(), b.in_flight().to_string(), lag, m.reason.clone(), m.since_ms.to_string()].into_iter().map(Some).collect()
            }).collect();
            c.rows(&i.work, &["name","address","state","role","weight","in_flight","lag_records","reason","since"], &rows, "SHOW");
        }
        c.ready(TxState::Idle);
        if c.flush().await.is_err() { return; }
    }
}

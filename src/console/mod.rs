//! Placeholder while the console is being written.
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use crate::exchange::Protocol;
use crate::session::Shared;
use crate::trace::Level;
type Reload = Box<dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = Result<String, String>> + Send>> + Send + Sync>;
type Cfg = Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>;
pub struct Levers;
impl Levers { pub fn new(_r: Reload, _s: CancellationToken, _l: Option<Level>, _c: Cfg) -> Self { Self } }
pub async fn serve<P: Protocol>(_s: Arc<Shared<P>>, _l: Arc<Levers>, _c: P::Client, _t: CancellationToken) {}

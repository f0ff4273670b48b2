//! Towards the applications: logging in, and their side of the conversation.

pub mod mysql;
pub mod pg;

use bytes::BytesMut;

use crate::exchange::Gone;
use crate::net::Line;

/// Length of what a proxy's proof is about, where a session goes from one proxy to another.
pub const CHALLENGE: usize = 16;

/// How many bytes a client may have on its way to here when it is called back, besides one message.
const ON_THE_WAY: usize = 16 << 20;

/// Takes in what a client has said by the time that the proxy it came by lets nothing more through.
async fn take_in_the_rest(
    stream: &mut Line,
    incoming: &mut BytesMut,
    longest_message: usize,
) -> Result<(), Gone> {
    let most = longest_message.saturating_add(ON_THE_WAY);
    while incoming.len() < most {
        match stream.read_more(incoming).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(Gone),
        }
    }
    Err(Gone)
}

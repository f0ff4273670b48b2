//! Bytes to and from a server, for as long as its backend is not given up.

use bytes::BytesMut;

use crate::ending::Ending;
use crate::exchange::Broken;
use crate::net::Stream;

/// Why a conversation ends whose backend is given up.
const GIVEN_UP: &str = "the backend was made inactive";

/// Sends all of `outgoing`; what arrives meanwhile goes to `incoming`.
///
/// # Errors
/// When the connection breaks, or the backend is given up.
pub(super) async fn send(
    stream: &mut Stream,
    outgoing: &mut BytesMut,
    incoming: &mut BytesMut,
    gone: &mut Ending,
) -> Result<(), Broken> {
    tokio::select! {
        biased;
        sent = stream.write_while_reading(outgoing, incoming) => {
            sent.map_err(|e| Broken::Lost(e.to_string()))
        }
        () = gone.comes() => Err(Broken::Lost(GIVEN_UP.into())),
    }
}

/// Waits for more bytes.
///
/// # Errors
/// When the server has closed the connection, it breaks, or the backend is given up.
pub(super) async fn receive(
    stream: &mut Stream,
    incoming: &mut BytesMut,
    gone: &mut Ending,
) -> Result<(), Broken> {
    tokio::select! {
        biased;
        read = stream.read_more(incoming) => match read {
            Ok(0) => Err(Broken::Lost("the server closed the connection".into())),
            Ok(_) => Ok(()),
            Err(e) => Err(Broken::Lost(e.to_string())),
        },
        () = gone.comes() => Err(Broken::Lost(GIVEN_UP.into())),
    }
}

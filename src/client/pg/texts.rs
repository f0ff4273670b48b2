//! Texts of an application on their way in: from the encoding of its session to UTF-8.

use std::ffi::CStr;

use bytes::{BufMut, BytesMut};
use lockstep_protocol::pg::server::ErrorFields;
use lockstep_protocol::pg::{client, frame};

use super::PgClient;
use crate::encoding::{Encoding, NotRead};
use crate::error::{Failure, Kind};
use crate::exchange::{Batch, Client, End, Gone};
use crate::wire::pg::PgWork;

impl PgClient {
    /// The batch that ends with a message whose texts nobody can read.
    pub(super) fn unread(&mut self, tag: u8, failure: Failure) -> Batch<PgWork> {
        self.extended = tag != client::QUERY;
        self.take_batch(if self.extended { End::Flush } else { End::Ready }, Some(failure))
    }

    /// The client broke the protocol in a way that leaves no way to go on.
    pub(super) async fn broken(&mut self, why: &str) -> Gone {
        let failure = Failure::new(Kind::Protocol, format!("protocol violation: {why}"));
        self.close(&failure).await;
        Gone
    }

    /// Takes note of the encoding that the client was told of.
    pub(super) fn note_encoding(&mut self) {
        let name = self.told.get("client_encoding").map_or("", String::as_str);
        self.encoding = Encoding::named(name);
    }
}

/// The same message with its texts in UTF-8. Values that are bound stay as they are: they go to the
/// servers in the session's own encoding.
pub(super) fn in_utf8(frame: frame::Frame, encoding: Encoding) -> Result<frame::Frame, Failure> {
    let (from, texts) = match frame.tag {
        client::QUERY | client::EXECUTE => (0, 1),
        client::PARSE | client::BIND => (0, 2),
        client::DESCRIBE | client::CLOSE => (1, 1),
        _ => return Ok(frame),
    };
    let body = frame.body();
    let Some(end) = end_of(body, from, texts) else {
        return Ok(frame); // It breaks the protocol, and whoever decodes it says so.
    };
    let (head, said, rest) = (&body[..from], &body[from..end], &body[end..]);
    if said.is_ascii() {
        return Ok(frame);
    }
    let text = encoding.decode(said).map_err(|why| refusal(why, said))?;
    if encoding == Encoding::Utf8 {
        return Ok(frame);
    }
    let length = 4 + head.len() + text.len() + rest.len();
    let mut again = BytesMut::with_capacity(1 + length);
    again.put_u8(frame.tag);
    again.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    again.put_slice(head);
    again.put_slice(text.as_bytes());
    again.put_slice(rest);
    Ok(frame::Frame { tag: frame.tag, bytes: again.freeze() })
}

/// Where the last of so many zero-terminated texts ends; there is one at the least.
fn end_of(body: &[u8], from: usize, texts: usize) -> Option<usize> {
    let mut next = from;
    for _ in 0..texts {
        next += CStr::from_bytes_until_nul(body.get(next..)?).ok()?.count_bytes() + 1;
    }
    Some(next - 1)
}

fn refusal(why: NotRead, said: &[u8]) -> Failure {
    let first = said.iter().find(|byte| !byte.is_ascii()).copied().unwrap_or_default();
    match why {
        NotRead::Invalid => {
            let what =
                format!("invalid byte sequence for client_encoding, at or after 0x{first:02x}");
            Failure::new(Kind::Protocol, what).code("22021").hint(
                "set client_encoding to what the application writes; binary values are parameters",
            )
        }
        NotRead::Unsupported => {
            let what =
                "a statement with characters that cannot be read for sure in client_encoding";
            Failure::new(Kind::Refused, what)
                .detail("every server must get the very bytes that the application wrote")
                .hint("SET client_encoding TO 'UTF8', or pass such characters as parameters")
        }
    }
}

/// A message that is longer than any may be.
pub(super) fn too_long(announced: u32, max: usize) -> Failure {
    let what = format!("a message of {announced} bytes is longer than {max} bytes");
    Failure::new(Kind::Protocol, what)
        .hint("send less at once, or raise `[limits] max_message_bytes`")
}

/// A message of ours for a client that may not read UTF-8.
fn plain(text: &str, encoding: Encoding) -> String {
    if encoding == Encoding::Utf8 {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

/// An error of ours as it travels.
pub(super) fn fields(failure: &Failure, severity: &str, encoding: Encoding) -> ErrorFields {
    let plain = |text: &str| plain(text, encoding);
    let mut fields = ErrorFields::new(severity, failure.sqlstate(), plain(&failure.message));
    if let Some(detail) = &failure.detail {
        fields = fields.detail(plain(detail));
    }
    if let Some(hint) = &failure.hint {
        fields = fields.hint(plain(hint));
    }
    fields
}

//! What servers answer, in short lines that two conversations can be compared by.

use std::collections::BTreeMap;

use super::wire::Message;

pub(crate) fn lines(messages: &[Message]) -> Vec<String> {
    messages.iter().map(line).collect()
}

/// One message as a person would note it; what differs between any two servers (object numbers,
/// source lines of the server's own code) is left out.
pub(crate) fn line(message: &Message) -> String {
    let body = &message.body;
    let tag = message.tag as char;
    match message.tag {
        b'T' => format!("T {}", columns(body).join(", ")),
        b'D' => format!("D {}", values(body).join("|")),
        b'E' | b'N' => format!("{tag} {}", error_line(body)),
        b'C' | b'S' => format!("{tag} {}", strings(body).join("=")),
        b'Z' => format!("Z {}", body[0] as char),
        b'd' => format!("d {}", body.escape_ascii()),
        b't' => {
            let types = body[2..].chunks(4).map(|c| u32::from_be_bytes(c.try_into().unwrap()));
            format!("t {:?}", types.collect::<Vec<_>>())
        }
        b'G' | b'H' | b'W' => format!("{tag} {body:?}"),
        b'A' => format!("A {}", strings(&body[4..]).join(":")),
        _ => tag.to_string(),
    }
}

/// The fields of an error or notice by their letters.
pub(crate) fn fields(body: &[u8]) -> BTreeMap<char, String> {
    let parts = body.split(|&b| b == 0).filter(|p| !p.is_empty());
    parts.map(|p| (p[0] as char, String::from_utf8_lossy(&p[1..]).into_owned())).collect()
}

fn error_line(body: &[u8]) -> String {
    let mut fields = fields(body);
    let mut head = Vec::new();
    for key in ['V', 'C', 'M'] {
        head.push(fields.remove(&key).unwrap_or_default());
    }
    // The severity once more in words, and where in the server's sources it was raised.
    fields.retain(|k, _| !matches!(k, 'S' | 'F' | 'L' | 'R'));
    let rest: Vec<String> = fields.into_iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{} {}", head.join(" "), rest.join(" ")).trim_end().to_owned()
}

fn columns(mut body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    body = &body[2..];
    while let Some(end) = body.iter().position(|&b| b == 0) {
        let name = String::from_utf8_lossy(&body[..end]).into_owned();
        let rest = &body[end + 1..];
        let oid = u32::from_be_bytes(rest[6..10].try_into().unwrap());
        let modifier = i32::from_be_bytes(rest[12..16].try_into().unwrap());
        let format = rest[17];
        found.push(format!("{name}:{oid}:{modifier}:{format}"));
        body = &rest[18..];
    }
    found
}

fn values(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = &body[2..];
    while !rest.is_empty() {
        let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
        rest = &rest[4..];
        match usize::try_from(length) {
            Ok(length) => {
                found.push(rest[..length].escape_ascii().to_string());
                rest = &rest[length..];
            }
            Err(_) => found.push("NULL".into()),
        }
    }
    found
}

pub(super) fn strings(body: &[u8]) -> Vec<String> {
    let mut parts: Vec<String> =
        body.split(|&b| b == 0).map(|p| String::from_utf8_lossy(p).into_owned()).collect();
    parts.pop();
    parts
}

pub(super) fn split(mut bytes: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    while bytes.len() >= 5 {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        all.push(Message { tag: bytes[0], body: bytes[5..=length].to_vec() });
        bytes = &bytes[length + 1..];
    }
    all
}

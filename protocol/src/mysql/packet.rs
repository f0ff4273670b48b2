//! Length and number: where one packet ends and the next begins.
//!
//! A packet is at most 16 MiB - 1 long; what is longer travels as several, the last of which is
//! shorter than that, if need be empty. A relay looks at headers only: [`peek`] says how long the
//! whole is, parts and headers included, and [`renumber`] gives a run of packets the numbers that
//! the receiver counts on. The length is judged as soon as it can be seen, long before its bytes
//! arrive, and nothing is reserved for it.

use crate::DecodeError;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The bytes before a payload: three of length, one of number.
pub const HEADER: usize = 4;

/// The longest payload of one part. A part of exactly this length says that another one follows.
pub const MAX_PART: usize = 0xff_ffff;

/// What can be known of the packet at the front of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The number of its first part.
    pub sequence: u8,
    /// The size of the payload, all parts together.
    pub payload: usize,
    /// The size on the wire, all headers included.
    pub total: usize,
}

impl Header {
    /// Whether the payload is in one piece.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.total == self.payload + HEADER
    }
}

/// Reads the headers of the packet at the front of `buf`, or says that more bytes are needed.
///
/// The payload need not have arrived, except that the header of a later part stands behind the
/// part before it. `max` bounds the payload, all parts together.
#[inline]
pub fn peek(buf: &[u8], max: usize) -> Result<Option<Header>, DecodeError> {
    let (mut payload, mut total, mut sequence) = (0, 0, None);
    loop {
        let Some(&[a, b, c, number]) = buf.get(total..).and_then(<[u8]>::first_chunk::<HEADER>)
        else {
            return Ok(None);
        };
        let part = u32::from_le_bytes([a, b, c, 0]) as usize;
        payload += part;
        total += HEADER + part;
        if payload > max {
            let announced = u32::try_from(payload).unwrap_or(u32::MAX);
            return Err(DecodeError::TooLong { announced, max });
        }
        let sequence = *sequence.get_or_insert(number);
        if part < MAX_PART {
            return Ok(Some(Header { sequence, payload, total }));
        }
    }
}

/// One whole packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The number of its first part.
    pub sequence: u8,
    /// The number of its last part: the answer counts on from here.
    pub last: u8,
    /// Its payload. Shares the buffer that it was read into, unless it came in parts.
    pub payload: Bytes,
}

/// Cuts the first packet off `buf`, or says that more bytes are needed.
#[inline]
pub fn take(buf: &mut BytesMut, max: usize) -> Result<Option<Packet>, DecodeError> {
    let Some(header) = peek(buf, max)?.filter(|h| h.total <= buf.len()) else {
        return Ok(None);
    };
    let sequence = header.sequence;
    if header.is_whole() {
        buf.advance(HEADER);
        let payload = buf.split_to(header.payload).freeze();
        return Ok(Some(Packet { sequence, last: sequence, payload }));
    }
    let wire = buf.split_to(header.total);
    let mut joined = BytesMut::with_capacity(header.payload);
    let mut last = sequence;
    for part in parts(&wire) {
        last = part[3];
        joined.put_slice(&part[HEADER..]);
    }
    Ok(Some(Packet { sequence, last, payload: joined.freeze() }))
}

/// The payload of the first packet in `buf`, where it is in one piece; else its first part's.
#[inline]
pub fn first_part(buf: &[u8]) -> &[u8] {
    let length = match buf.first_chunk::<HEADER>() {
        Some(&[a, b, c, _]) => u32::from_le_bytes([a, b, c, 0]) as usize,
        None => return &[],
    };
    let rest = &buf[HEADER..];
    rest.get(..length).unwrap_or(rest)
}

/// The parts of complete packets, each with its header. Stops at the first that is not complete.
fn parts(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let &[a, b, c, _] = rest.first_chunk::<HEADER>()?;
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        let (part, tail) = rest.split_at_checked(HEADER + length)?;
        rest = tail;
        Some(part)
    })
}

/// Numbers complete packets from `next` on, and returns the number that comes after them.
pub fn renumber(wire: &mut [u8], mut next: u8) -> u8 {
    let mut rest = wire;
    while let Some(&[a, b, c, _]) = rest.first_chunk::<HEADER>() {
        rest[3] = next;
        next = next.wrapping_add(1);
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        let Some((_, tail)) = rest.split_at_mut_checked(HEADER + length) else {
            break;
        };
        rest = tail;
    }
    next
}

/// Writes one packet whose payload `body` appends; returns the number that comes next.
///
/// A payload that is too long for one part is cut where it stands, which costs a move and happens
/// to nobody who does not send 16 MiB at once.
pub fn write(buf: &mut BytesMut, sequence: u8, body: impl FnOnce(&mut BytesMut)) -> u8 {
    let start = buf.len();
    buf.put_u32_le(0);
    body(buf);
    let length = buf.len() - start - HEADER;
    if length < MAX_PART {
        set_header(&mut buf[start..], length, sequence);
        return sequence.wrapping_add(1);
    }
    let payload = buf.split_off(start + HEADER);
    buf.truncate(start);
    put(buf, sequence, &payload)
}

/// Writes one packet, in as many parts as it takes; returns the number that comes next.
pub fn put(buf: &mut BytesMut, mut sequence: u8, payload: &[u8]) -> u8 {
    let mut rest = payload;
    loop {
        let length = rest.len().min(MAX_PART);
        let (part, tail) = rest.split_at(length);
        buf.put_uint_le(length as u64, 3);
        buf.put_u8(sequence);
        buf.put_slice(part);
        sequence = sequence.wrapping_add(1);
        if length < MAX_PART {
            return sequence;
        }
        rest = tail;
    }
}

fn set_header(at: &mut [u8], length: usize, sequence: u8) {
    at[..3].copy_from_slice(&length.to_le_bytes()[..3]);
    at[3] = sequence;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Two packets as a server sent them: the column count of a result and its last packet.
    const WIRE: &[u8] = b"\x01\0\0\x01\x03\x05\0\0\x05\xfe\0\0\x02\0";

    #[test]
    fn packets_are_cut_off_one_by_one() {
        let mut buf = BytesMut::from(WIRE);
        let count = take(&mut buf, 100).unwrap().unwrap();
        assert_eq!((count.sequence, &count.payload[..]), (1, &b"\x03"[..]));
        let end = take(&mut buf, 100).unwrap().unwrap();
        assert_eq!((end.sequence, end.last, &end.payload[..]), (5, 5, &b"\xfe\0\0\x02\0"[..]));
        assert_eq!(take(&mut buf, 100).unwrap(), None);
    }

    #[test]
    fn incomplete_input_asks_for_more_at_every_length() {
        for end in 0..5 {
            let mut buf = BytesMut::from(&WIRE[..end]);
            assert_eq!(take(&mut buf, 100).unwrap(), None);
            assert_eq!(buf.len(), end);
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_from_the_header_alone() {
        let too_long = Err(DecodeError::TooLong { announced: 101, max: 100 });
        assert_eq!(peek(b"\x65\0\0\0", 100), too_long);
        assert!(peek(b"\x64\0\0\0", 100).unwrap().is_some());
        let mut buf = BytesMut::from(&b"\xff\xff\xff\0abc"[..]);
        let before = buf.capacity();
        assert_eq!(take(&mut buf, usize::MAX), Ok(None));
        assert_eq!(buf.capacity(), before);
    }

    #[test]
    fn what_is_too_long_for_one_part_travels_in_several_and_is_joined_again() {
        for length in [MAX_PART - 1, MAX_PART, MAX_PART + 5, 2 * MAX_PART] {
            let payload: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let mut buf = BytesMut::new();
            let next = write(&mut buf, 254, |buf| buf.put_slice(&payload));
            let parts = length / MAX_PART + 1;
            assert_eq!(usize::from(next.wrapping_sub(254)), parts, "{length}");
            assert_eq!(buf.len(), length + parts * HEADER);
            let packet = take(&mut buf, usize::MAX).unwrap().unwrap();
            assert_eq!(packet.last.wrapping_add(1), next);
            assert!(packet.payload == payload, "{length}");
            assert!(buf.is_empty());
        }
        // The limit counts all parts together.
        let mut buf = BytesMut::new();
        put(&mut buf, 0, &vec![0; MAX_PART + 5]);
        assert!(peek(&buf, MAX_PART + 4).is_err());
    }

    #[test]
    fn a_run_is_numbered_without_being_copied() {
        let mut wire = WIRE.to_vec();
        assert_eq!(renumber(&mut wire, 255), 1);
        assert_eq!((wire[3], wire[8]), (255, 0));
        assert_eq!(renumber(&mut [1, 2], 7), 7);
    }
}

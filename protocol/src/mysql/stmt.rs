//! Prepared statements: what a prepare is answered with, and how parameters travel.
//!
//! An EXECUTE leans on what came before it on its connection: the types may have been sent with an
//! earlier one, and long values with packets of their own. [`Execute::complete`] makes one that
//! leans on nothing, so that it means the same on every connection and can be kept in a journal.

use super::command::STMT_EXECUTE;
use super::fields::{Reader, put_lenenc_bytes};
use super::value::{self, kind};
use crate::DecodeError;
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;

/// The first packet that a prepare is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrepareOk {
    /// The statement's number on this connection.
    pub statement: u32,
    /// How many columns its result has.
    pub columns: u16,
    /// How many parameters it takes.
    pub parameters: u16,
    /// How many warnings there are.
    pub warnings: u16,
}

impl PrepareOk {
    /// Where the statement's number stands in the payload.
    pub const STATEMENT_AT: usize = 1;

    /// Reads the packet.
    ///
    /// # Errors
    /// When it is cut short.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(payload);
        read.u8("packet type")?;
        let statement = read.u32("statement")?;
        let (columns, parameters) = (read.u16("columns")?, read.u16("parameters")?);
        read.u8("filler")?;
        // The oldest servers leave the warnings out.
        let warnings = if read.is_empty() { 0 } else { read.u16("warnings")? };
        Ok(Self { statement, columns, parameters, warnings })
    }

    /// Appends the payload.
    pub fn encode(&self, buf: &mut BytesMut) {
        buf.put_u8(0);
        buf.put_u32_le(self.statement);
        buf.put_u16_le(self.columns);
        buf.put_u16_le(self.parameters);
        buf.put_u8(0);
        buf.put_u16_le(self.warnings);
    }
}

/// The type of a parameter: its number, and its flags (unsigned).
pub type Kind = [u8; 2];

/// An EXECUTE as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The statement.
    pub statement: u32,
    /// Which kind of cursor to open; 0: none.
    pub cursor: u8,
    /// The parameters, as they travel.
    pub parameters: &'a [u8],
}

/// Parameters that lean on nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complete {
    /// What follows the fixed part of an EXECUTE.
    pub parameters: Bytes,
    /// The types, for the next EXECUTE that leaves them out.
    pub kinds: Vec<Kind>,
}

impl<'a> Execute<'a> {
    /// Reads the fixed part of the command.
    ///
    /// # Errors
    /// When it is cut short.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let mut read = Reader::new(payload);
        read.u8("command")?;
        let (statement, cursor) = (read.u32("statement")?, read.u8("cursor")?);
        read.u32("iterations")?;
        Ok(Self { statement, cursor, parameters: read.rest() })
    }

    /// The parameters with types and long values in them.
    ///
    /// `known` are the types of the statement's last EXECUTE, `long` the values that were sent
    /// ahead, by the parameter's place.
    ///
    /// # Errors
    /// When the parameters do not fit their types or their number.
    pub fn complete(
        &self,
        count: u16,
        known: &[Kind],
        long: &BTreeMap<u16, BytesMut>,
    ) -> Result<Complete, DecodeError> {
        let count = usize::from(count);
        if count == 0 {
            return Ok(Complete { parameters: Bytes::new(), kinds: Vec::new() });
        }
        let mut read = Reader::new(self.parameters);
        let mut nulls = read.bytes(count.div_ceil(8), "NULL bits")?.to_vec();
        let kinds: Vec<Kind> = if read.u8("types flag")? == 1 {
            read.bytes(count * 2, "types")?.as_chunks::<2>().0.to_vec()
        } else if known.len() == count {
            known.to_vec()
        } else {
            return Err(DecodeError::Invalid("the types of the parameters were never sent"));
        };
        let mut values = BytesMut::with_capacity(read.rest().len());
        for (at, [kind, _]) in kinds.iter().enumerate() {
            let (byte, bit) = (at / 8, 1_u8 << (at % 8));
            let sent = u16::try_from(at).ok().and_then(|at| long.get(&at));
            if let Some(sent) = sent {
                nulls[byte] &= !bit;
                put_lenenc_bytes(&mut values, sent);
            } else if nulls[byte] & bit == 0 && *kind != kind::NULL {
                values.put_slice(value::take(&mut read, *kind)?);
            }
        }
        read.finish()?;
        let mut parameters =
            BytesMut::with_capacity(nulls.len() + 1 + kinds.len() * 2 + values.len());
        parameters.put_slice(&nulls);
        parameters.put_u8(1);
        parameters.put_slice(kinds.as_flattened());
        parameters.put_slice(&values);
        Ok(Complete { parameters: parameters.freeze(), kinds })
    }
}

/// Appends a parameter of text or bytes.
pub fn put_bytes(buf: &mut BytesMut, bytes: &[u8]) {
    put_lenenc_bytes(buf, bytes);
}

/// Appends the payload of an EXECUTE.
pub fn execute(buf: &mut BytesMut, statement: u32, cursor: u8, parameters: &[u8]) {
    buf.put_u8(STMT_EXECUTE);
    buf.put_u32_le(statement);
    buf.put_u8(cursor);
    buf.put_u32_le(1);
    buf.put_slice(parameters);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NONE: BTreeMap<u16, BytesMut> = BTreeMap::new();

    #[test]
    fn a_recorded_prepare_is_read_and_written() {
        let packet = b"\x00\x01\x00\x00\x00\x02\x00\x01\x00\x00\x00\x00";
        let ok = PrepareOk::decode(packet).unwrap();
        assert_eq!((ok.statement, ok.columns, ok.parameters, ok.warnings), (1, 2, 1, 0));
        let mut buf = BytesMut::new();
        ok.encode(&mut buf);
        assert_eq!(&buf[..], packet);
        assert!(PrepareOk::decode(&packet[..9]).is_err());
    }

    #[test]
    fn what_is_complete_stays_as_it_is() {
        let parameters = b"\x00\x01\x08\x00\x07\x00\x00\x00\x00\x00\x00\x00";
        let mut buf = BytesMut::new();
        execute(&mut buf, 9, 0, parameters);
        let read = Execute::decode(&buf).unwrap();
        assert_eq!((read.statement, read.cursor), (9, 0));
        let complete = read.complete(1, &[], &NONE).unwrap();
        assert_eq!(&complete.parameters[..], parameters);
        assert_eq!(complete.kinds, [[8, 0]]);
    }

    #[test]
    fn types_that_were_sent_before_are_sent_again() {
        let read = Execute { statement: 1, cursor: 0, parameters: b"\x02\x00\x05" };
        let known = [[kind::TINY, 0], [kind::STRING, 0]];
        let complete = read.complete(2, &known, &NONE).unwrap();
        assert_eq!(&complete.parameters[..], b"\x02\x01\x01\x00\xfe\x00\x05");
        assert!(read.complete(2, &[], &NONE).is_err());
        assert!(read.complete(3, &known, &NONE).is_err());
    }

    #[test]
    fn long_values_take_their_place() {
        let long = BTreeMap::from([(1, BytesMut::from(&b"long"[..]))]);
        let parameters = b"\x02\x01\x01\x00\xfc\x00\x05";
        let read = Execute { statement: 1, cursor: 0, parameters };
        let complete = read.complete(2, &[], &long).unwrap();
        assert_eq!(&complete.parameters[..], b"\x00\x01\x01\x00\xfc\x00\x05\x04long");
    }

    #[test]
    fn a_statement_without_parameters_sends_none() {
        let read = Execute { statement: 1, cursor: 0, parameters: b"" };
        assert!(read.complete(0, &[], &NONE).unwrap().parameters.is_empty());
        let read = Execute { statement: 1, cursor: 0, parameters: b"\x00\x01\xfe\x00\xfe" };
        assert!(read.complete(1, &[], &NONE).is_err());
    }
}

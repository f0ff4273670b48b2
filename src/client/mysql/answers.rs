//! Answers of our own that have rows.

use bytes::{BufMut, BytesMut};
use lockstep_protocol::mysql::response;
use lockstep_protocol::mysql::stmt::PrepareOk;
use lockstep_protocol::mysql::value::kind;

use super::{Mark, MyClient};
use crate::exchange::Table;

impl MyClient {
    /// Columns of text.
    fn columns(&mut self, names: &[&str]) {
        const UTF8MB4: u16 = 45;
        for name in names {
            let column = response::Column {
                name: name.as_bytes(),
                kind: kind::VAR_STRING,
                charset: UTF8MB4,
                flags: 0,
            };
            self.put(Mark::Middle, |buf| column.encode(buf));
        }
    }

    /// Answers the prepare of a statement that no server sees.
    pub(super) fn prepared(&mut self, statement: u32, columns: &[&str]) {
        let count = u16::try_from(columns.len()).unwrap_or(u16::MAX);
        let ok = PrepareOk { statement, columns: count, parameters: 0, warnings: 0 };
        self.put(Mark::Middle, |buf| ok.encode(buf));
        if count > 0 {
            self.columns(columns);
            self.eof(Mark::Middle);
        }
    }

    /// Rows of text, as they answer a query or an EXECUTE.
    pub(super) fn table(&mut self, table: &Table<'_>, binary: bool) {
        self.put(Mark::Middle, |buf| response::column_count(buf, table.columns.len()));
        self.columns(table.columns);
        self.eof(Mark::Middle);
        for row in table.rows {
            let values: Vec<Option<&[u8]>> =
                row.iter().map(|value| value.as_deref().map(str::as_bytes)).collect();
            self.put(Mark::Middle, |buf| {
                if binary {
                    put_binary_head(buf, &values);
                    response::put_text_row(
                        buf,
                        &values.into_iter().filter(Option::is_some).collect::<Vec<_>>(),
                    );
                } else {
                    response::put_text_row(buf, &values);
                }
            });
        }
        self.eof(Mark::Result);
    }
}

/// What stands in front of a row in binary form: which values are NULL.
fn put_binary_head(buf: &mut BytesMut, values: &[Option<&[u8]>]) {
    buf.put_u8(0);
    let mut nulls = vec![0_u8; (values.len() + 2).div_ceil(8)];
    for (at, value) in values.iter().enumerate() {
        if value.is_none() {
            nulls[(at + 2) / 8] |= 1 << ((at + 2) % 8);
        }
    }
    buf.put_slice(&nulls);
}

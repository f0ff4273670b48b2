//! From a command's packet to what the session runs, or to an answer of our own.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lockstep_protocol::DecodeError;
use lockstep_protocol::mysql::command::{self, LongData};
use lockstep_protocol::mysql::stmt::Execute;

use super::asides::{Aside, without_socket};
use super::binary;
use super::{Mark, MyClient, Own};
use crate::catalog::Text;
use crate::error::{Failure, Kind};
use crate::exchange::{Client, Gone, Item};
use crate::wire::mysql::MyWork;

/// What a command comes to: an item for the session, or nothing when it is answered already.
type Taken = Result<Option<Item<MyWork>>, Failure>;

impl MyClient {
    /// Takes a command. `None` when it is answered here, be it with nothing.
    pub(super) fn command(&mut self, payload: &Bytes) -> Result<Option<Item<MyWork>>, Gone> {
        match command::kind(payload) {
            Some(command::QUIT) => return Err(Gone),
            Some(command::CHANGE_USER) if self.may_leave() => {
                self.leaving = Some(payload.clone());
                return Err(Gone);
            }
            _ => {}
        }
        match self.take(payload) {
            Ok(item) => Ok(item),
            Err(failure) => {
                self.fail(&failure);
                Ok(None)
            }
        }
    }

    fn take(&mut self, payload: &Bytes) -> Taken {
        match command::kind(payload) {
            Some(command::QUERY) => match command::text_of(payload, "statement") {
                Err(_) => {
                    let text = binary::in_hexadecimal(command::rest(payload), self.reading);
                    self.query(text.as_deref().ok_or(DecodeError::NotUtf8("statement")))
                }
                text => self.query(text),
            },
            Some(command::INIT_DB) => {
                let name = command::text_of(payload, "database name").map_err(unreadable)?;
                let text = format!("USE `{}`", name.replace('`', "``"));
                self.query(Ok(&text))
            }
            Some(command::PROCESS_KILL) => {
                let number = command::number_of(payload, "connection").map_err(unreadable)?;
                self.query(Ok(&format!("KILL {number}")))
            }
            Some(command::STMT_PREPARE) => self.prepare(payload),
            Some(command::STMT_EXECUTE) => self.execute(payload),
            Some(command::STMT_SEND_LONG_DATA) => {
                self.long_data(payload);
                Ok(None)
            }
            Some(command::STMT_CLOSE) => {
                if let Ok(number) = command::number_of(payload, "statement") {
                    self.drop_long(number);
                    self.own.remove(&number);
                }
                Ok(None)
            }
            Some(command::STMT_RESET) => {
                let number = command::number_of(payload, "statement").map_err(unreadable)?;
                self.drop_long(number);
                self.own(number, "mysql_stmt_reset")?;
                self.ok();
                Ok(None)
            }
            Some(command::STMT_FETCH) => {
                let number = command::number_of(payload, "statement").map_err(unreadable)?;
                let what = format!("The statement ({number}) has no open cursor.");
                Err(Failure::new(Kind::Protocol, what).number(1421))
            }
            Some(command::RESET_CONNECTION) => Ok(Some(Item { text: None, work: MyWork::Reset })),
            Some(command::FIELD_LIST) => {
                Ok(Some(Item { text: None, work: MyWork::Columns(payload.clone()) }))
            }
            Some(command::PING) => {
                self.ok();
                Ok(None)
            }
            Some(command::SET_OPTION) => {
                self.multi = command::option_of(payload).map_err(unreadable)? == 0;
                self.eof(Mark::Result);
                Ok(None)
            }
            Some(command::STATISTICS) => {
                let uptime = self.statements.since.elapsed().as_secs();
                let line = format!("Uptime: {uptime}  Prepared statements: {}", self.own.len());
                self.put(Mark::Middle, |buf| buf.extend_from_slice(line.as_bytes()));
                Ok(None)
            }
            other => Err(unknown(other)),
        }
    }

    fn query(&mut self, text: Result<&str, DecodeError>) -> Taken {
        let text = text.map_err(|_| {
            Failure::new(Kind::Refused, "Invalid utf8mb4 character string in the statement")
                .number(1300)
                .code("HY000")
                .hint(
                    "connect with the character set utf8mb4, and write binary data as x'…' \
                     (a dump: --hex-blob) or as parameters",
                )
        })?;
        let hidden = without_socket(text);
        let text = hidden.as_deref().unwrap_or(text);
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let work = MyWork::Query { text: bytes, single: !self.multi };
        if let Some(aside) = Aside::of(text) {
            self.answer_aside(&work, &aside);
            return Ok(None);
        }
        let shared: Arc<Text> = self.statements.intern(text).text.clone();
        self.past.runs(&shared);
        Ok(Some(Item { text: Some(shared), work }))
    }

    fn prepare(&mut self, payload: &Bytes) -> Taken {
        let text = command::text_of(payload, "statement").map_err(unreadable)?;
        if self.own.len() >= self.bounds.prepared {
            let what = "Can't create more prepared statements";
            return Err(Failure::new(Kind::TooManyConnections, what)
                .number(1461)
                .code("42000")
                .hint("close some, or raise `[limits] max_prepared_per_client`"));
        }
        let prepared = self.statements.intern(text);
        let mut number = self.newest.wrapping_add(1);
        // 0 and the largest number mean something else to some servers and clients.
        while number == 0 || number == u32::MAX || self.own.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        self.newest = number;
        let own = Own {
            prepared: prepared.clone(),
            parameters: 0,
            kinds: Vec::new(),
            long: BTreeMap::new(),
        };
        self.own.insert(number, own);
        self.preparing = Some(number);
        Ok(Some(Item { text: None, work: MyWork::Prepare { prepared, number } }))
    }

    fn own(&mut self, number: u32, what: &str) -> Result<&mut Own, Failure> {
        self.own.get_mut(&number).ok_or_else(|| {
            let message = format!("Unknown prepared statement handler ({number}) given to {what}");
            Failure::new(Kind::Protocol, message).number(1243)
        })
    }

    fn execute(&mut self, payload: &Bytes) -> Taken {
        let execute = Execute::decode(payload).map_err(unreadable)?;
        let most = self.bounds.message;
        if self.long > most {
            self.drop_long(execute.statement);
            let what = format!("the statement's long parameters have more than {most} bytes");
            return Err(Failure::new(Kind::Protocol, what)
                .number(1153)
                .code("08S01")
                .hint("raise `[limits] max_message_bytes`"));
        }
        let own = self.own(execute.statement, "mysqld_stmt_execute")?;
        let complete =
            execute.complete(own.parameters, &own.kinds, &own.long).map_err(unreadable)?;
        own.kinds = complete.kinds;
        let prepared = own.prepared.clone();
        self.drop_long(execute.statement);
        let text = prepared.text.clone();
        let aside = Aside::of(&prepared.text.sql);
        let work = MyWork::Execute { prepared, parameters: complete.parameters };
        self.past.runs(&text);
        if let Some(aside) = aside {
            self.answer_aside(&work, &aside);
            return Ok(None);
        }
        Ok(Some(Item { text: Some(text), work }))
    }

    /// Keeps a piece of a long parameter. There is no answer, so what is wrong shows at EXECUTE.
    fn long_data(&mut self, payload: &Bytes) {
        let Ok(piece) = LongData::decode(payload) else { return };
        let Some(own) = self.own.get_mut(&piece.statement) else { return };
        if piece.parameter >= own.parameters {
            return;
        }
        // The first piece too many is kept as well, so that it is too much wherever it is read again.
        if let Some(kept) = self.kept.as_mut().filter(|_| self.long <= self.bounds.message) {
            kept.is_ahead(piece.statement);
        }
        self.long += piece.data.len();
        let value = own.long.entry(piece.parameter).or_default();
        if self.long <= self.bounds.message {
            value.extend_from_slice(piece.data);
        }
    }

    fn drop_long(&mut self, number: u32) {
        if let Some(kept) = &mut self.kept {
            kept.uses(number);
        }
        if let Some(own) = self.own.get_mut(&number) {
            own.long.clear();
        }
        self.long = self.own.values().flat_map(|own| own.long.values()).map(|v| v.len()).sum();
    }
}

fn unreadable(error: DecodeError) -> Failure {
    Failure::new(Kind::Protocol, format!("Malformed communication packet: {error}"))
}

fn unknown(kind: Option<u8>) -> Failure {
    let failure = |what: &str| Failure::new(Kind::Refused, what).number(1047).code("08S01");
    match kind {
        Some(
            command::BINLOG_DUMP
            | command::BINLOG_DUMP_GTID
            | command::TABLE_DUMP
            | command::REGISTER_REPLICA,
        ) => failure("replication is not served through the proxy")
            .hint("connect the replica to one of the databases"),
        _ => failure("Unknown command"),
    }
}

//! A client that shows each packet, so that what one server says and what goes through the proxy can be
//! laid side by side.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use lockstep_protocol::mysql::auth::{Method, SWITCH};
use lockstep_protocol::mysql::handshake::{CHALLENGE, Greeting, Login, capability as cap};
use lockstep_protocol::mysql::{command, packet, response};

use crate::server::{DATABASE, PASSWORD, USER};

/// What drivers commonly ask for.
const CAPABILITIES: u32 = cap::LONG_PASSWORD
    | cap::LONG_FLAG
    | cap::TRANSACTIONS
    | cap::MULTI_RESULTS
    | cap::PS_MULTI_RESULTS;

pub(crate) struct Wire {
    stream: TcpStream,
    incoming: BytesMut,
    sequence: u8,
    challenge: [u8; CHALLENGE],
    pub(crate) greeting: Greeting,
    /// What the login was answered with.
    pub(crate) welcome: Vec<u8>,
    /// The names of the columns of the last result.
    pub(crate) columns: Vec<String>,
}

/// An answer: its packets, without the columns' descriptions and what ends them.
pub(crate) type Packets = Vec<Vec<u8>>;

impl Wire {
    pub(crate) fn connect(port: u16) -> Self {
        Self::connect_with(port, 0)
    }

    /// The same with more capabilities.
    pub(crate) fn connect_with(port: u16, more: u32) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut incoming = BytesMut::new();
        let first = read(&stream, &mut incoming).unwrap();
        let greeting = Greeting::decode(&first.payload).unwrap();
        let challenge = greeting.challenge;
        let mut wire = Self {
            stream,
            incoming,
            sequence: 1,
            challenge,
            greeting,
            welcome: Vec::new(),
            columns: Vec::new(),
        };
        let login = Login {
            capabilities: CAPABILITIES | more,
            max_packet: 1 << 24,
            collation: 45,
            user: USER.to_owned(),
            proof: Method::Native.prove(PASSWORD, &challenge),
            database: Some(DATABASE.to_owned()),
            plugin: Some(Method::Native.name().to_owned()),
            attributes: Vec::new(),
        };
        let mut payload = BytesMut::new();
        login.encode(&mut payload);
        wire.send(&payload);
        wire.welcome = wire.packet();
        wire
    }

    fn send(&mut self, payload: &[u8]) {
        let mut out = BytesMut::new();
        packet::put(&mut out, self.sequence, payload);
        self.stream.write_all(&out).unwrap();
    }

    fn packet(&mut self) -> Vec<u8> {
        let packet = read(&self.stream, &mut self.incoming).expect("an answer");
        self.sequence = packet.last.wrapping_add(1);
        packet.payload.to_vec()
    }

    /// Sends a command; the first packet of its answer.
    pub(crate) fn command(&mut self, payload: &[u8]) -> Vec<u8> {
        self.tell(payload);
        self.packet()
    }

    /// Runs a text; the packets of its first result.
    pub(crate) fn query(&mut self, sql: &str) -> Packets {
        self.results(sql).swap_remove(0)
    }

    /// Runs a text; all its results.
    pub(crate) fn results(&mut self, sql: &str) -> Vec<Packets> {
        let mut payload = vec![command::QUERY];
        payload.put_slice(sql.as_bytes());
        let mut results = vec![self.result(&payload)];
        loop {
            let last = results.last().and_then(|packets| packets.last()).unwrap();
            let more = last[0] != response::ERR
                && response::status_at(last).is_some_and(|at| last[at] & 8 != 0);
            if !more {
                return results;
            }
            let first = self.packet();
            results.push(self.rest(first));
        }
    }

    /// Sends a command that is answered with a result; its packets.
    pub(crate) fn result(&mut self, payload: &[u8]) -> Packets {
        let first = self.command(payload);
        self.rest(first)
    }

    /// The result that begins with this packet.
    fn rest(&mut self, first: Vec<u8>) -> Packets {
        self.columns.clear();
        if first[0] == response::OK || first[0] == response::ERR {
            return vec![first];
        }
        for _ in 0..first[0] {
            let column = self.packet();
            let name = response::Column::decode(&column).unwrap().name;
            self.columns.push(String::from_utf8_lossy(name).into_owned());
        }
        let end = self.packet();
        if response::status_at(&end).is_some_and(|at| end[at] & 0x40 != 0) {
            return vec![end];
        }
        let mut rows = Packets::new();
        loop {
            let packet = self.packet();
            let ends = response::is_eof(&packet) || packet[0] == response::ERR;
            rows.push(packet);
            if ends {
                return rows;
            }
        }
    }

    /// Sends a command that has no answer.
    pub(crate) fn tell(&mut self, payload: &[u8]) {
        self.sequence = 0;
        self.send(payload);
    }

    /// Passes so many packets over.
    pub(crate) fn skip(&mut self, packets: usize) {
        (0..packets).for_each(|_| drop(self.packet()));
    }

    /// The next packet, whatever it is.
    pub(crate) fn unasked(&mut self) -> Vec<u8> {
        self.packet()
    }

    /// The number of the error that a text is answered with, or else the first value of its answer.
    pub(crate) fn told(&mut self, sql: &str) -> String {
        let packets = self.query(sql);
        match response::Err::decode(&packets[0]) {
            Ok(error) if packets[0][0] == response::ERR => format!("error {}", error.number),
            _ if packets[0][0] == response::OK && packets.len() == 1 => "ok".to_owned(),
            _ if packets.len() == 1 => "nothing".to_owned(),
            _ => {
                let row = response::text_row(&packets[0]).unwrap();
                row[0].map_or("NULL".into(), |v| String::from_utf8_lossy(v).into_owned())
            }
        }
    }

    /// Wants to be somebody else; what that is answered with in the end.
    pub(crate) fn change_user(&mut self, user: &str, password: &str, database: &str) -> Vec<u8> {
        let mut payload = BytesMut::new();
        payload.put_u8(command::CHANGE_USER);
        payload.put_slice(user.as_bytes());
        payload.put_u8(0);
        let proof = Method::Native.prove(password, &self.challenge);
        payload.put_u8(u8::try_from(proof.len()).unwrap());
        payload.put_slice(&proof);
        payload.put_slice(database.as_bytes());
        payload.put_slice(&[0, 45, 0]);
        payload.put_slice(Method::Native.name().as_bytes());
        payload.put_u8(0);
        let mut answer = self.command(&payload);
        if answer[0] == SWITCH {
            let asked = answer.len() - CHALLENGE - 1;
            self.challenge.copy_from_slice(&answer[asked..asked + CHALLENGE]);
            let proof = Method::Native.prove(password, &self.challenge);
            self.send(&proof);
            answer = self.packet();
        }
        answer
    }

    /// Whether the other end has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        read(&self.stream, &mut self.incoming).is_none()
    }
}

fn read(mut stream: &TcpStream, incoming: &mut BytesMut) -> Option<packet::Packet> {
    loop {
        if let Some(packet) = packet::take(incoming, 1 << 26).unwrap() {
            return Some(packet);
        }
        let mut piece = [0; 8192];
        match stream.read(&mut piece) {
            Ok(0) => return None,
            Ok(length) => incoming.put_slice(&piece[..length]),
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

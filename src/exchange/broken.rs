//! What goes wrong in a conversation with a database.

use super::Gone;

/// An error that a database answered.
#[derive(Clone, Debug)]
pub struct ServerError {
    /// SQLSTATE.
    pub code: String,
    /// The message, in the server's language.
    pub message: String,
    /// Whether the connection ended with it.
    pub fatal: bool,
    /// The whole error as it travelled, to be handed on unchanged.
    pub wire: bytes::Bytes,
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// What went wrong among answers that no application sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mishap {
    /// SQLSTATE, where a server gave one.
    pub code: String,
    /// What was under way, and what the server said.
    pub what: String,
}

/// The code of a mishap whose cause is a disk without room, whatever the server calls it.
pub const DISK_FULL: &str = "53100";

impl Mishap {
    /// Whether it tells of the server's machine, such as a full disk, and not of what was asked.
    #[must_use]
    pub fn is_of_the_server(&self) -> bool {
        // Insufficient resources, and errors of the system below. Connections and memory are
        // one session's matter.
        [DISK_FULL, "58000", "58030"].contains(&self.code.as_str())
    }

    /// The code of whatever was cancelled, or took longer than it may, if that is what happened.
    #[must_use]
    pub fn struck(&self) -> Option<&'static str> {
        struck(&self.code)
    }
}

/// The same for a code alone: PostgreSQL has one, MariaDB and MySQL another.
#[must_use]
pub fn struck(code: &str) -> Option<&'static str> {
    ["57014", "70100"].into_iter().find(|known| code == *known)
}

impl std::fmt::Display for Mishap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<ServerError> for Mishap {
    fn from(error: ServerError) -> Self {
        Self { what: error.to_string(), code: error.code }
    }
}

/// Why a conversation with a database broke.
#[derive(Debug)]
pub enum Broken {
    /// The backend, or the way to it, is gone, or it broke the protocol.
    Lost(String),
    /// The backend gave no answer in time.
    Silent(String),
    /// The backend broke the protocol: nothing it says means anything.
    Rules(String),
    /// The session's settings could not be established.
    Setup(Mishap),
    /// The application went away in the middle of an answer.
    Client(Gone),
}

impl Broken {
    /// Whether it tells of the backend, not of one session only: the backend is lost, whatever it answers elsewhere.
    pub fn is_damning(&self) -> bool {
        matches!(self, Self::Silent(_) | Self::Rules(_))
    }
}

impl From<Gone> for Broken {
    fn from(gone: Gone) -> Self {
        Self::Client(gone)
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "connection lost: {why}"),
            Self::Silent(why) => write!(f, "no answer: {why}"),
            Self::Rules(why) => write!(f, "the server broke the protocol: {why}"),
            Self::Setup(why) => write!(f, "the session's settings cannot be established: {why}"),
            Self::Client(_) => write!(f, "the application is gone"),
        }
    }
}

//! Texts on their way to a server, in the encoding that its session has at that moment.

use std::borrow::Cow;

use super::link::PgLink;
use crate::encoding::Encoding;
use crate::exchange::Settings;
use crate::store::journal::armoured;

/// The setting, as the server calls it.
pub(super) const SETTING: &str = "client_encoding";

/// What is sent in the place of a text that cannot be written: a name that nobody has, for the server
/// to refuse it aloud.
const UNWRITABLE: &[u8] = b"\"lockstep: this text has characters that client_encoding lacks\"";

/// The bytes of a text for a server that reads this encoding.
pub(super) fn written(encoding: Encoding, text: &str) -> Cow<'_, [u8]> {
    encoding.encode(text).unwrap_or(Cow::Borrowed(UNWRITABLE))
}

impl PgLink {
    /// Takes note of the encoding in which the server says it reads us. What is queued behind the
    /// statement that brought it about may have changed it again: then that counts.
    pub(super) fn note_encoding(&mut self) {
        if self.outstanding_requests() <= 1
            && let Some(name) = self.parameters.get(SETTING)
        {
            self.encoding = Encoding::named(name);
        }
    }

    /// Takes note of a statement that changes the encoding of what follows it. They are of our own
    /// making, in one form.
    pub(super) fn foresee(&mut self, sql: &str) {
        let named = ["SET \"client_encoding\" TO '", "SET LOCAL \"client_encoding\" TO '"];
        if let Some(rest) = named.iter().find_map(|start| sql.strip_prefix(start)) {
            self.encoding = Encoding::named(rest);
        } else if sql == "RESET client_encoding" {
            self.encoding = self.own_encoding;
        }
    }

    /// Brings the encoding to what is wanted, ahead of everything that may need it.
    pub(super) fn adopt_encoding(&mut self, wanted: &Settings) {
        if self.settings.get(SETTING) == wanted.get(SETTING) {
            return;
        }
        let change = wanted.get(SETTING).map_or("RESET client_encoding", String::as_str);
        self.queue_query(change, "settings", None);
    }

    /// Queues settings, which may have been chosen when the session had another encoding: what this
    /// one cannot write goes in UTF-8.
    pub(super) fn queue_settings(&mut self, change: &str, wanted: &Settings) {
        if self.encoding.encode(change).is_some() {
            return self.queue_query(change, "settings", None);
        }
        self.queue_query("SET \"client_encoding\" TO 'UTF8'", "settings", None);
        self.queue_query(change, "settings", None);
        let back = wanted.get(SETTING).map_or("RESET client_encoding", String::as_str);
        self.queue_query(back, "settings", None);
    }

    /// A text for the functions in schema `lockstep`, which take it in a form that every encoding
    /// leaves alone.
    pub(super) fn armour<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.encoding == Encoding::Utf8 {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(armoured(text))
        }
    }

    /// The same for a list of them.
    pub(super) fn armour_all<'t>(&self, texts: &'t [String]) -> Cow<'t, [String]> {
        if self.encoding == Encoding::Utf8 {
            Cow::Borrowed(texts)
        } else {
            Cow::Owned(texts.iter().map(|text| armoured(text)).collect())
        }
    }
}

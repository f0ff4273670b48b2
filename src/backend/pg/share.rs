//! How a follower's part of a transaction begins.

use super::link::PgLink;
use super::own::{BEGIN_SHARE, bind_rest};
use crate::exchange::{Link as _, Settings};
use crate::store::journal::Effect;

/// Settings that a follower's part of a transaction has of its own.
pub(super) const SHARE_LIMITS: [&str; 3] =
    ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"];

impl PgLink {
    /// The session's settings with a share's limits among them. What limits the application's own
    /// statements has been judged on the leader already. The limits are the session's, not the
    /// transaction's, so that they can be taken back when this share has to lead.
    fn limited(&mut self, settings: &Settings) -> Settings {
        let patience = self.shared.live.bounds().follower_lock;
        if let Some((base, known, limited)) = &self.share
            && std::sync::Arc::ptr_eq(base, settings)
            && *known == patience
        {
            return limited.clone();
        }
        let mut limited = (**settings).clone();
        for key in SHARE_LIMITS {
            let limit = if key == "lock_timeout" { patience.as_millis() } else { 0 };
            limited.insert(key.to_owned(), format!("SET {key} = {limit}"));
        }
        let limited = Settings::new(limited);
        self.share = Some((settings.clone(), patience, limited.clone()));
        limited
    }

    /// Brings the session's settings to these, with a share's limits, and queues its BEGIN.
    pub(super) fn open_share(&mut self, settings: &Settings) {
        let limited = self.limited(settings);
        self.adopt(&limited);
        self.follow(true);
        self.queue_own(&BEGIN_SHARE, &bind_rest(&[]));
    }

    /// Whether an effect is sent in the request that is being put together, and does not end it.
    pub(super) fn shares_a_request(effect: &Effect) -> bool {
        match effect {
            Effect::Bound { .. }
            | Effect::Rows { .. }
            | Effect::Advance { .. }
            | Effect::ResetSequence { .. } => true,
            Effect::Checked { effect, .. } => Self::shares_a_request(effect),
            _ => false,
        }
    }
}

//! What cannot be made the same on all backends: plain data.

/// A clear error: what, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error's class.
    pub sqlstate: &'static str,
    /// What is refused and why.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl Refusal {
    /// What has no way to be the same on all backends.
    pub(super) fn unsupported(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { sqlstate: "0A000", message: message.into(), hint: hint.into() }
    }

    /// What belongs to the proxy alone.
    pub(super) fn reserved(message: impl Into<String>) -> Self {
        Self {
            sqlstate: "42501",
            message: message.into(),
            hint:
                "The schema \"lockstep\" and the settings \"lockstep.*\" keep the backends equal; \
                   use the console's commands instead."
                    .to_owned(),
        }
    }
}

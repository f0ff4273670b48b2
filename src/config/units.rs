//! Durations and sizes with their unit beside the number.
//!
//! A bare number is refused except for 0: whoever wrote `connect = 5` meant either seconds or
//! milliseconds, and to guess wrong is worse than to ask.

use std::time::Duration;

/// Unit names with their length in milliseconds, the longest name first so that it matches first.
const TIMES: [(&str, u64); 6] =
    [("min", 60_000), ("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// Unit names with their number of bytes. `MB` means what PostgreSQL means by it: 2^20.
const SIZES: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1 << 10),
    ("KB", 1 << 10),
    ("MB", 1 << 20),
    ("GB", 1 << 30),
    ("B", 1),
];

/// Reads "1500ms", "10s", "5min", "1h", "2d" or "0".
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let remedy = || {
        format!(
            "`{text}` is no duration: write a number and a unit, such as \"500ms\", \"10s\", \"5min\", \"1h\""
        )
    };
    with_unit(text, &TIMES).map(Duration::from_millis).ok_or_else(remedy)
}

/// Reads "64KiB", "256MB", "1GiB" or a plain number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let remedy = || {
        format!(
            "`{text}` is no size: write a number and a unit, such as \"64KiB\", \"256MiB\", \"1GiB\""
        )
    };
    with_unit(text, &SIZES).or_else(|| text.parse().ok()).ok_or_else(remedy)
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    if text == "0" {
        return Some(0);
    }
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.trim_end(), *factor)))?;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The shortest way to write it: the largest unit that leaves no remainder.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)] {
        if millis >= factor && millis.is_multiple_of(factor) {
            return format!("{}{unit}", millis / factor);
        }
    }
    if millis == 0 { "0".into() } else { format!("{millis}ms") }
}

fn show_size(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// For `#[serde(with)]`: a duration as text.
pub(super) mod duration {
    use super::{Duration, parse_duration, show_duration};
    use serde::{Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Duration,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&show_duration(*value))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        parse_duration(&super::word(from)?).map_err(D::Error::custom)
    }
}

/// For `#[serde(with)]`: a duration, or "off".
pub(super) mod optional_duration {
    use super::{Duration, parse_duration, show_duration};
    use serde::{Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde hands the field over by reference")]
    pub(in crate::config) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.map_or_else(|| "off".into(), show_duration))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = super::word(from)?;
        if text == "off" {
            return Ok(None);
        }
        let duration = parse_duration(&text).map_err(D::Error::custom)?;
        Ok(Some(duration).filter(|duration| !duration.is_zero()))
    }
}

/// For `#[serde(with)]`: a number of bytes as text or number.
pub(super) mod size {
    use super::{parse_size, show_size};
    use serde::{Deserializer, Serializer, de::Error};

    pub(in crate::config) fn serialize<S: Serializer>(
        value: &usize,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&show_size(*value as u64))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<usize, D::Error> {
        let bytes = parse_size(&super::word(from)?).map_err(D::Error::custom)?;
        usize::try_from(bytes).map_err(D::Error::custom)
    }
}

/// A string or a whole number, as text: the unit is asked for in one place, with one remedy.
fn word<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    struct Word;
    impl serde::de::Visitor<'_> for Word {
        type Value = String;
        fn expecting(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            to.write_str("a text with a number and a unit, such as \"10s\" or \"64KiB\"")
        }
        fn visit_str<E>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
        fn visit_i64<E>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }
        fn visit_u64<E>(self, number: u64) -> Result<String, E> {
            Ok(number.to_string())
        }
    }
    from.deserialize_any(Word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_are_written() {
        for text in ["0", "1ms", "1500ms", "10s", "5min", "1h", "2d"] {
            assert_eq!(parse_duration(text).map(show_duration).as_deref(), Ok(text));
        }
        assert_eq!(parse_duration("60s"), parse_duration("1m"));
    }

    #[test]
    fn a_number_without_a_unit_is_asked_for_one() {
        for text in ["5", "", "s", "-1s", "1.5s", "10 weeks", "99999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_back_as_they_are_written() {
        for text in ["64KiB", "256MiB", "1GiB", "10000B"] {
            assert_eq!(parse_size(text).map(show_size).as_deref(), Ok(text));
        }
        assert_eq!(parse_size("64kB"), Ok(65_536));
        assert_eq!(parse_size("1000"), Ok(1000));
        assert!(parse_size("lots").is_err());
    }
}

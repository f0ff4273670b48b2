//! Values bound to parameters: whether every backend reads the same out of them.

use super::names::{mentions_clock, unambiguous_time};
use super::statement::TimeParam;

/// PostgreSQL's own date/time types, their arrays, ranges and multiranges.
const TIME_TYPES: [u32; 22] = [
    1082, 1083, 1114, 1184, 1266, // date, time, timestamp, timestamptz, timetz
    1182, 1183, 1115, 1185, 1270, // arrays of these
    3908, 3910, 3912, 3909, 3911, 3913, // ranges and arrays of these
    4533, 4534, 4535, 6152, 6153, 6155, // multiranges and arrays of these
];

/// The first number that a user's object can have.
const FIRST_USER_OBJECT: u32 = 16384;

impl TimeParam {
    /// Whether a bound value means the same on every backend: `type_oid` is the type that the
    /// client declared in Parse (0: none), `value` is None for NULL.
    pub fn is_fixed(&self, type_oid: u32, binary: bool, value: Option<&[u8]>) -> bool {
        let Some(value) = value else { return true };
        if binary {
            return type_oid == 0 || TIME_TYPES.contains(&type_oid);
        }
        std::str::from_utf8(value).is_ok_and(|text| unambiguous_time(&self.type_name, text))
    }
}

/// Whether a value bound in text form could read the clock because of the type that the client
/// declared for it in Parse: then a keyed statement has to be captured. A parameter without a
/// declared type (0) takes its type from the statement, which has been looked at.
pub fn value_reads_clock(type_oid: u32, value: &[u8]) -> bool {
    (TIME_TYPES.contains(&type_oid) || type_oid >= FIRST_USER_OBJECT)
        && std::str::from_utf8(value).map_or(true, mentions_clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_time_is_fixed_when_it_says_all() {
        let param = TimeParam { number: 1, type_name: "timestamptz".to_owned() };
        assert!(param.is_fixed(0, false, None));
        assert!(param.is_fixed(0, false, Some(b"2024-05-01 10:00:00.123+02")));
        assert!(param.is_fixed(1184, true, Some(&[0; 8])));
        assert!(!param.is_fixed(25, true, Some(b"now")));
        assert!(!param.is_fixed(0, false, Some(b"now")));
        assert!(!param.is_fixed(0, false, Some(b"2024-05-01 10:00:00")));
    }

    #[test]
    fn only_declared_times_read_the_clock() {
        assert!(value_reads_clock(1184, b"NOW"));
        assert!(value_reads_clock(20_000, b"today"));
        assert!(!value_reads_clock(25, b"now"));
        assert!(!value_reads_clock(0, b"now"));
        assert!(!value_reads_clock(1184, b"2024-05-01"));
    }
}

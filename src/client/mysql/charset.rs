//! The character set that a login asks for by a collation's number.

/// The collation that connections to the servers begin with.
pub(super) const UTF8MB4: u8 = 45;

/// The character sets in which a byte of a letter can look like a quote or a backslash. Statements
/// in them cannot be read without knowing each server's own tables.
const UNSAFE: [u8; 20] =
    [1, 13, 28, 35, 54, 55, 56, 60, 61, 62, 84, 87, 88, 90, 95, 96, 97, 98, 248, 249];

/// The settings that establish what a login asks for: keys, and the statements of each. None where
/// nothing has to be done.
///
/// # Errors
/// With what is wrong, when statements in that character set cannot be read safely.
pub fn charset_settings(collation: u8) -> Result<Vec<(String, String)>, &'static str> {
    if UNSAFE.contains(&collation) {
        return Err("a login with Big5, SJIS, GBK, UCS-2 or another character set of their kind");
    }
    let (name, order) = match collation {
        UTF8MB4 => return Ok(Vec::new()),
        8 => ("latin1", None),
        11 => ("ascii", None),
        33 => ("utf8", None),
        46 => ("utf8mb4", Some("utf8mb4_bin")),
        47 => ("latin1", Some("latin1_bin")),
        48 => ("latin1", Some("latin1_general_ci")),
        63 => ("binary", None),
        83 => ("utf8", Some("utf8_bin")),
        192 => ("utf8", Some("utf8_unicode_ci")),
        224 => ("utf8mb4", Some("utf8mb4_unicode_ci")),
        246 => ("utf8mb4", Some("utf8mb4_unicode_520_ci")),
        // A number that servers of another make do not know: they take their default then.
        _ => ("utf8mb4", None),
    };
    let sets = ["character_set_client", "character_set_connection", "character_set_results"];
    let setting = |key: &str, value: &str| (key.to_owned(), format!("SET SESSION {key} = {value}"));
    let mut found: Vec<_> = sets.iter().map(|key| setting(key, name)).collect();
    found.extend(order.map(|order| setting("collation_connection", order)));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_safely_is_refused() {
        assert_eq!(charset_settings(45), Ok(Vec::new()));
        let chosen = charset_settings(46).expect("known");
        let order = "SET SESSION collation_connection = utf8mb4_bin";
        assert_eq!(chosen[3], ("collation_connection".to_owned(), order.to_owned()));
        assert_eq!(charset_settings(255).expect("unknown").len(), 3);
        assert!(charset_settings(28).is_err());
    }
}

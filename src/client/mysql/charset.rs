//! The character set that a login asks for by a collation's number.

/// The collation that connections to the servers begin with.
pub(super) const UTF8MB4: u8 = 45;

/// The character sets in which a byte of a letter can look like a quote or a backslash. Statements
/// in them cannot be read without knowing each server's own tables.
const UNSAFE: [u8; 15] = [1, 13, 28, 35, 54, 56, 60, 61, 84, 87, 88, 95, 96, 248, 249];

/// The statement that establishes what a login asks for; `Ok(None)` where nothing has to be done.
///
/// # Errors
/// With the reason, when statements in that character set cannot be read safely.
pub fn names_statement(collation: u8) -> Result<Option<&'static str>, &'static str> {
    if UNSAFE.contains(&collation) {
        return Err("the character set of the login (Big5, SJIS, GBK, UCS-2 and the like)");
    }
    Ok(match collation {
        UTF8MB4 => None,
        8 => Some("SET NAMES latin1"),
        11 => Some("SET NAMES ascii"),
        33 => Some("SET NAMES utf8"),
        46 => Some("SET NAMES utf8mb4 COLLATE utf8mb4_bin"),
        47 => Some("SET NAMES latin1 COLLATE latin1_bin"),
        48 => Some("SET NAMES latin1 COLLATE latin1_general_ci"),
        63 => Some("SET NAMES binary"),
        83 => Some("SET NAMES utf8 COLLATE utf8_bin"),
        192 => Some("SET NAMES utf8 COLLATE utf8_unicode_ci"),
        224 => Some("SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci"),
        246 => Some("SET NAMES utf8mb4 COLLATE utf8mb4_unicode_520_ci"),
        // A number that servers of another make do not know: they take their default then.
        _ => Some("SET NAMES utf8mb4"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_safely_is_refused() {
        assert_eq!(names_statement(45), Ok(None));
        assert_eq!(names_statement(255), Ok(Some("SET NAMES utf8mb4")));
        assert!(names_statement(28).is_err());
    }
}

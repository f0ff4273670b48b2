//! The encodings that applications write their statements in.
//!
//! Inside the proxy a text is UTF-8; the servers get it in the encoding of the session again. What is
//! let in is only what gives the very same bytes on the way out, so that every server gets what the
//! application wrote. The servers alone convert what is stored.

use std::borrow::Cow;

use encoding_rs as rs;

/// An encoding, by PostgreSQL's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// UTF-8. Also SQL_ASCII, which means that nothing is converted: then it is the database's.
    Utf8,
    /// ISO 8859-1 as PostgreSQL has it: each byte is the character of that number.
    Latin1,
    /// One that the library knows as PostgreSQL does.
    Known(&'static rs::Encoding),
    /// Any other one: only what is ASCII is understood.
    Unknown,
}

/// Why a text is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRead {
    /// It is none in this encoding.
    Invalid,
    /// It may be one, but nobody here could write it again as it was.
    Unsupported,
}

/// PostgreSQL's names and aliases, without case and punctuation, for what the library knows alike.
/// EUC_KR and EUC_CN are read as the larger sets that contain them: what these have more the servers
/// refuse. What is written differently there (EUC_TW, JOHAB, MULE_INTERNAL, …) is not in the list.
const KNOWN: [(&[&str], &rs::Encoding); 30] = [
    (&["latin2", "iso88592"], rs::ISO_8859_2),
    (&["latin3", "iso88593"], rs::ISO_8859_3),
    (&["latin4", "iso88594"], rs::ISO_8859_4),
    (&["iso88595"], rs::ISO_8859_5),
    (&["iso88596"], rs::ISO_8859_6),
    (&["iso88597"], rs::ISO_8859_7),
    (&["iso88598"], rs::ISO_8859_8),
    (&["latin6", "iso885910"], rs::ISO_8859_10),
    (&["latin7", "iso885913"], rs::ISO_8859_13),
    (&["latin8", "iso885914"], rs::ISO_8859_14),
    (&["latin9", "iso885915"], rs::ISO_8859_15),
    (&["latin10", "iso885916"], rs::ISO_8859_16),
    (&["win1250", "windows1250"], rs::WINDOWS_1250),
    (&["win1251", "windows1251", "win"], rs::WINDOWS_1251),
    (&["win1252", "windows1252"], rs::WINDOWS_1252),
    (&["win1253", "windows1253"], rs::WINDOWS_1253),
    (&["win1254", "windows1254"], rs::WINDOWS_1254),
    (&["win1255", "windows1255"], rs::WINDOWS_1255),
    (&["win1256", "windows1256"], rs::WINDOWS_1256),
    (&["win1257", "windows1257"], rs::WINDOWS_1257),
    (&["win1258", "windows1258", "abc", "tcvn", "tcvn5712", "vscii"], rs::WINDOWS_1258),
    (&["win866", "windows866", "alt"], rs::IBM866),
    (&["win874", "windows874"], rs::WINDOWS_874),
    (&["koi8r", "koi8"], rs::KOI8_R),
    (&["koi8u"], rs::KOI8_U),
    (&["eucjp"], rs::EUC_JP),
    (&["sjis", "mskanji", "shiftjis", "win932", "windows932"], rs::SHIFT_JIS),
    (&["euckr", "uhc", "win949", "windows949"], rs::EUC_KR),
    (&["big5", "win950", "windows950"], rs::BIG5),
    (&["gb18030"], rs::GB18030),
];
const GBK: [&str; 4] = ["gbk", "win936", "windows936", "euccn"];
const UTF8: [&str; 4] = ["utf8", "unicode", "sqlascii", ""];
const LATIN1: [&str; 2] = ["latin1", "iso88591"];

impl Encoding {
    /// The encoding of this name, in any spelling that PostgreSQL takes.
    pub fn named(name: &str) -> Self {
        let plain = name.chars().filter(char::is_ascii_alphanumeric);
        let plain: String = plain.map(|c| c.to_ascii_lowercase()).collect();
        let plain = plain.as_str();
        if UTF8.contains(&plain) {
            return Self::Utf8;
        }
        if LATIN1.contains(&plain) {
            return Self::Latin1;
        }
        if GBK.contains(&plain) {
            return Self::Known(rs::GBK);
        }
        let found = KNOWN.iter().find(|(names, _)| names.contains(&plain));
        found.map_or(Self::Unknown, |(_, encoding)| Self::Known(encoding))
    }

    /// The text, if these bytes are one and the same bytes can be made of it.
    ///
    /// # Errors
    /// When they are not, or not for sure.
    pub fn decode(self, bytes: &[u8]) -> Result<Cow<'_, str>, NotRead> {
        if self == Self::Utf8 || bytes.is_ascii() {
            // Every client encoding of PostgreSQL has ASCII where ASCII has it.
            return std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NotRead::Invalid);
        }
        let text = match self {
            Self::Latin1 => Cow::Owned(bytes.iter().copied().map(char::from).collect()),
            Self::Known(encoding) => encoding
                .decode_without_bom_handling_and_without_replacement(bytes)
                .ok_or(NotRead::Invalid)?,
            Self::Utf8 | Self::Unknown => return Err(NotRead::Unsupported),
        };
        let same = self.encode(&text).is_some_and(|again| *again == *bytes);
        if same { Ok(text) } else { Err(NotRead::Unsupported) }
    }

    /// The bytes of a text; `None` when it has characters that this encoding lacks.
    pub fn encode(self, text: &str) -> Option<Cow<'_, [u8]>> {
        if self == Self::Utf8 || text.is_ascii() {
            return Some(Cow::Borrowed(text.as_bytes()));
        }
        match self {
            Self::Latin1 => {
                let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).ok());
                Some(Cow::Owned(bytes.collect::<Option<Vec<u8>>>()?))
            }
            Self::Known(encoding) => {
                let (bytes, _, lossy) = encoding.encode(text);
                (!lossy).then_some(bytes)
            }
            Self::Utf8 | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(name: &str, bytes: &[u8], text: &str) {
        let encoding = Encoding::named(name);
        assert_eq!(encoding.decode(bytes).as_deref(), Ok(text), "{name}");
        assert_eq!(encoding.encode(text).as_deref(), Some(bytes), "{name}");
    }

    #[test]
    fn names_are_taken_as_postgresql_takes_them() {
        for name in ["LATIN1", "latin-1", "ISO_8859_1", "'iso-8859-1'"] {
            assert_eq!(Encoding::named(name), Encoding::Latin1, "{name}");
        }
        assert_eq!(Encoding::named("UTF-8"), Encoding::Utf8);
        assert_eq!(Encoding::named("EUC_JP"), Encoding::Known(rs::EUC_JP));
        assert_eq!(Encoding::named("Shift_JIS"), Encoding::Known(rs::SHIFT_JIS));
        for name in ["EUC_TW", "JOHAB", "MULE_INTERNAL", "SHIFT_JIS_2004", "LATIN5", "x"] {
            assert_eq!(Encoding::named(name), Encoding::Unknown, "{name}");
        }
    }

    #[test]
    fn a_byte_of_a_character_is_no_quote_and_no_backslash() {
        there_and_back("LATIN1", b"'\xe4\x80'", "'ä\u{80}'");
        // The second byte is a backslash, a quote's neighbour, or a letter.
        there_and_back("SJIS", b"'\x95\x5c'", "'表'");
        there_and_back("BIG5", b"'\xa5\x5c'", "'功'");
        there_and_back("GBK", b"'\xb2\x5c'", "'瞈'");
        there_and_back("GB18030", b"'\x81\x30\x89\x38\xb2\x5c'", "'ß瞈'");
        there_and_back("EUC_JP", b"\xc6\xfc\x8e\xb1", "日ｱ");
        there_and_back("UHC", b"\xb0\xa1", "가");
        there_and_back("WIN1251", b"\xe6", "ж");
    }

    #[test]
    fn what_is_no_text_or_not_for_sure_is_not_read() {
        for (name, bytes, why) in [
            ("UTF8", &b"\xe4'"[..], NotRead::Invalid),
            ("SQL_ASCII", b"\xe4'", NotRead::Invalid),
            ("GBK", b"\xbf'", NotRead::Invalid),
            ("SJIS", b"\x95", NotRead::Invalid),
            ("EUC_TW", b"\xa4\xa1", NotRead::Unsupported),
            // Two ways to write one character: what comes out would be the other one.
            ("SJIS", b"\xed\x40", NotRead::Unsupported),
        ] {
            assert_eq!(Encoding::named(name).decode(bytes), Err(why), "{name} {bytes:?}");
        }
        assert_eq!(Encoding::Latin1.encode("日"), None);
        assert_eq!(Encoding::Unknown.encode("ä"), None);
        assert_eq!(Encoding::Unknown.encode("a").as_deref(), Some(&b"a"[..]));
    }
}

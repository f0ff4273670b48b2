//! CREATE and ALTER ROLE: a password in clear becomes one verifier for all backends.

use std::ops::Range;

use pg_query::Node;
use pg_query::protobuf::Token;

use super::names;
use super::piece::Piece;
use super::statement::{Ddl, Password, Refusal, Statement};

pub(super) fn with_password(piece: &Piece<'_, '_>, options: &[Node]) -> Statement {
    let plain = names::option(options, "password")
        .and_then(|def| def.arg.as_deref())
        .and_then(names::string)
        .filter(|text| !text.is_empty() && !is_verifier(text));
    let Some(plain) = plain else {
        return Statement::ddl(Ddl::default());
    };
    match literal(piece) {
        Some(range) => {
            let password = Some(Password { range, plain: plain.to_owned() });
            Statement::ddl(Ddl { password, ..Ddl::default() })
        }
        // Each server would make its own verifier of it, and a login be good on one of them only.
        None => Statement::refused(
            "ddl",
            Refusal::unsupported(
                "a password in this spelling cannot be replaced by one verifier for all backends",
                "Write it as one plain literal: PASSWORD '…'.",
            ),
        ),
    }
}

/// The place of the one literal after PASSWORD.
fn literal(piece: &Piece<'_, '_>) -> Option<Range<usize>> {
    let tokens = piece.tokens()?;
    let mut places = (0..tokens.len()).filter(|at| {
        tokens.kind(*at) == Some(Token::Password) && tokens.kind(at + 1) == Some(Token::Sconst)
    });
    let at = places.next()?;
    if places.next().is_some() {
        return None;
    }
    let own = tokens.range(at + 1)?;
    Some(piece.range.start + own.start..piece.range.start + own.end)
}

/// What the server would store as it is.
fn is_verifier(text: &str) -> bool {
    let md5 = text
        .strip_prefix("md5")
        .is_some_and(|digest| digest.len() == 32 && digest.bytes().all(|b| b.is_ascii_hexdigit()));
    let scram = text.strip_prefix("SCRAM-SHA-256$").is_some_and(|rest| {
        let fields: Vec<&str> = rest.split(['$', ':']).collect();
        fields.len() == 4
            && fields.iter().all(|field| !field.is_empty())
            && fields.first().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
    });
    md5 || scram
}

//! Statements whose text stands in a string: kept under a name, run by that name, or run at once.

/// Where the text of a statement comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It is this.
    Constant(String),
    /// A server of the session says it: the one value of this query.
    Asked(String),
    /// It was kept under this name.
    Kept(String),
}

/// A statement about another one, whose text is looked up first. What is run then is judged like any
/// other text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Indirect {
    /// Where the text comes from.
    pub source: Source,
    /// Under this name it is kept, once a server has run what is made of it: nothing but a trial.
    pub keep: Option<String>,
    /// How the text is written into what is run. `None`: it is run as it is.
    pub around: Option<Around>,
}

/// What stands around a text that is written as a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around {
    /// In front of the string.
    pub before: &'static str,
    /// Behind it.
    pub after: String,
    /// A backslash means something in a string.
    pub escapes: bool,
}

impl Indirect {
    /// The statement that is run for this text.
    pub fn statement(&self, text: &str) -> String {
        let Some(Around { before, after, escapes }) = &self.around else {
            return text.to_owned();
        };
        let mut quoted = text.replace('\'', "''");
        if *escapes {
            quoted = quoted.replace('\\', "\\\\");
        }
        format!("{before}'{quoted}'{after}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_as_the_server_reads_it() {
        let written = |escapes| {
            let around = Around { before: "RUN ", after: " USING @a".to_owned(), escapes };
            let source = Source::Constant(String::new());
            Indirect { source, keep: None, around: Some(around) }.statement(r"select 'a\'")
        };
        assert_eq!(written(true), r"RUN 'select ''a\\''' USING @a");
        assert_eq!(written(false), r"RUN 'select ''a\''' USING @a");
    }
}

//! The few statements that a fake server understands: a subset that the product's classifier reads
//! too, so that the plans of the simulation are the product's own.

use crate::tables::{Row, Shape, shape};

/// One statement.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    Insert { table: &'static Shape, columns: Vec<usize>, values: Vec<Expr>, returning: bool },
    Update { table: &'static Shape, sets: Vec<(usize, Expr)>, filter: Filter, returning: bool },
    Delete { table: &'static Shape, filter: Filter, returning: bool },
    Select { table: &'static Shape, columns: Vec<usize>, filter: Filter, locks: bool },
    Savepoint(String),
    RollbackTo(String),
    Release(String),
}

/// Which rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    /// All of these hold.
    pub(crate) terms: Vec<(usize, char, i64)>,
    /// The first row, by key, for which this holds and that nobody has locked.
    pub(crate) pick: Option<Vec<(usize, char, i64)>>,
}

impl Filter {
    pub(crate) fn holds(&self, row: &Row) -> bool {
        all_hold(&self.terms, row)
    }
}

pub(crate) fn all_hold(terms: &[(usize, char, i64)], row: &Row) -> bool {
    terms.iter().all(|(column, op, value)| match op {
        '=' => row[*column] == *value,
        '<' => row[*column] < *value,
        _ => row[*column] > *value,
    })
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    Number(i64),
    Column(usize),
    Plus(usize, i64),
    /// Another one at each call, on each server.
    Random,
    /// Another one on each server.
    Now,
}

/// Reads a statement.
pub(crate) fn parse(sql: &str) -> Result<Statement, String> {
    let mut parser = Parser { words: words(sql), at: 0 };
    let statement = parser.statement().map_err(|why| format!("{why} in {sql:?}"))?;
    if parser.at < parser.words.len() {
        return Err(format!("{:?} is left over in {sql:?}", parser.words[parser.at]));
    }
    Ok(statement)
}

fn words(sql: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in sql.chars().filter(|c| *c != ';' && *c != '"').chain([' ']) {
        if c.is_alphanumeric() || c == '_' {
            word.push(c.to_ascii_lowercase());
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if !c.is_whitespace() {
            words.push(c.to_string());
        }
    }
    words
}

struct Parser {
    words: Vec<String>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Result<&str, String> {
        let word = self.words.get(self.at).ok_or("the end came too early")?;
        self.at += 1;
        Ok(word)
    }

    fn eat(&mut self, word: &str) -> bool {
        let there = self.words.get(self.at).is_some_and(|w| w == word);
        self.at += usize::from(there);
        there
    }

    fn need(&mut self, text: &str) -> Result<(), String> {
        for word in text.split(' ') {
            if !self.eat(word) {
                return Err(format!("{word:?} is missing before word {}", self.at));
            }
        }
        Ok(())
    }

    fn statement(&mut self) -> Result<Statement, String> {
        match self.next()?.to_owned().as_str() {
            "insert" => self.insert(),
            "update" => self.update(),
            "delete" => {
                self.need("from")?;
                let table = self.table()?;
                let filter = self.filter(table)?;
                Ok(Statement::Delete { table, filter, returning: self.returning()? })
            }
            "select" => self.select(),
            "savepoint" => Ok(Statement::Savepoint(self.next()?.to_owned())),
            "release" => {
                self.eat("savepoint");
                Ok(Statement::Release(self.next()?.to_owned()))
            }
            "rollback" => {
                self.need("to")?;
                self.eat("savepoint");
                Ok(Statement::RollbackTo(self.next()?.to_owned()))
            }
            other => Err(format!("{other:?} is not known")),
        }
    }

    fn insert(&mut self) -> Result<Statement, String> {
        self.need("into")?;
        let table = self.table()?;
        self.need("(")?;
        let columns = self.columns(table)?;
        self.need(") values (")?;
        let mut values = vec![self.expr(table)?];
        while self.eat(",") {
            values.push(self.expr(table)?);
        }
        self.need(")")?;
        Ok(Statement::Insert { table, columns, values, returning: self.returning()? })
    }

    fn update(&mut self) -> Result<Statement, String> {
        let table = self.table()?;
        self.need("set")?;
        let mut sets = Vec::new();
        loop {
            let column = self.column(table)?;
            self.need("=")?;
            sets.push((column, self.expr(table)?));
            if !self.eat(",") {
                break;
            }
        }
        let filter = self.filter(table)?;
        Ok(Statement::Update { table, sets, filter, returning: self.returning()? })
    }

    fn select(&mut self) -> Result<Statement, String> {
        let from = self.words.iter().position(|w| w == "from").ok_or("no FROM")?;
        let table = self.words.get(from + 1).and_then(|name| shape(name)).ok_or("no table")?;
        let columns = self.columns(table)?;
        self.need("from")?;
        self.table()?;
        let filter = self.filter(table)?;
        let locks = self.eat("for");
        if locks {
            self.need("update")?;
        }
        Ok(Statement::Select { table, columns, filter, locks })
    }

    fn table(&mut self) -> Result<&'static Shape, String> {
        let name = self.next()?;
        shape(name).ok_or_else(|| format!("no table {name:?}"))
    }

    fn column(&mut self, table: &Shape) -> Result<usize, String> {
        let name = self.next()?;
        let place = table.columns.iter().position(|c| *c == name);
        place.ok_or_else(|| format!("no column {name:?}"))
    }

    fn columns(&mut self, table: &Shape) -> Result<Vec<usize>, String> {
        let mut columns = vec![self.column(table)?];
        while self.eat(",") {
            columns.push(self.column(table)?);
        }
        Ok(columns)
    }

    fn number(&mut self) -> Result<i64, String> {
        let sign = if self.eat("-") { -1 } else { 1 };
        let word = self.next()?;
        word.parse::<i64>().map(|n| n * sign).map_err(|_| format!("{word:?} is no number"))
    }

    fn expr(&mut self, table: &Shape) -> Result<Expr, String> {
        if self.eat("random") {
            return self.need("( )").map(|()| Expr::Random);
        }
        if self.eat("now") {
            return self.need("( )").map(|()| Expr::Now);
        }
        let place = self.words.get(self.at).and_then(|w| table.columns.iter().position(|c| c == w));
        let Some(column) = place else {
            return self.number().map(Expr::Number);
        };
        self.at += 1;
        if self.eat("+") {
            return self.number().map(|n| Expr::Plus(column, n));
        }
        if self.eat("-") {
            return self.number().map(|n| Expr::Plus(column, -n));
        }
        Ok(Expr::Column(column))
    }

    fn filter(&mut self, table: &Shape) -> Result<Filter, String> {
        let mut filter = Filter::default();
        if !self.eat("where") {
            return Ok(filter);
        }
        loop {
            let column = self.column(table)?;
            let op = self.next()?.chars().next().ok_or("no operator")?;
            if self.eat("(") {
                filter.pick = Some(self.pick(table)?);
            } else {
                filter.terms.push((column, op, self.number()?));
            }
            if !self.eat("and") {
                return Ok(filter);
            }
        }
    }

    fn pick(&mut self, table: &Shape) -> Result<Vec<(usize, char, i64)>, String> {
        self.need("select id from")?;
        self.table()?;
        let inner = self.filter(table)?;
        self.need("order by id limit 1 for update skip locked )")?;
        Ok(inner.terms)
    }

    fn returning(&mut self) -> Result<bool, String> {
        if self.eat("returning") {
            return self.need("id").map(|()| true);
        }
        Ok(false)
    }
}

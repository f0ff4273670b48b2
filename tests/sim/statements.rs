//! What a fake server's statements do to rows.

use lockstep::store::capture::{Captured, CapturedRow, Op};
use rand::Rng;

use crate::engine::{Done, take_now};
use crate::locks::Mode;
use crate::server::{Answer, Mark, Refusal, Server, State};
use crate::sql::{Expr, Filter, Statement, all_hold};
use crate::tables::{Place, Row, SHAPES, Shape, relation, row_text, text_row};

impl Server {
    pub(crate) async fn statement(&self, pid: u64, statement: Statement) -> Done {
        match statement {
            Statement::Insert { table, columns, values, returning } => {
                self.insert(pid, table, &columns, &values, returning).await
            }
            Statement::Update { table, sets, filter, returning } => {
                let change = |state: &mut State, row: &Row| Some(self.changed(state, &sets, row));
                self.each(pid, table, &filter, ("UPDATE", Op::Update), returning, change).await
            }
            Statement::Delete { table, filter, returning } => {
                self.each(pid, table, &filter, ("DELETE", Op::Delete), returning, |_, _| None).await
            }
            Statement::Select { table, columns, filter, locks } => {
                let mut answer = Answer::new("SELECT");
                for id in self.candidates(pid, table, &filter) {
                    if locks {
                        self.take(pid, (table.name, id), Mode::Exclusive).await?;
                    }
                    let row = visible(&self.lock(), pid, (table.name, id));
                    let row = row.filter(|row| filter.holds(row));
                    answer.lines.extend(row.map(|row| columns.iter().map(|c| row[*c]).collect()));
                }
                answer.rows = Some(answer.lines.len() as u64);
                Ok(answer)
            }
            Statement::Savepoint(name) => {
                self.with_tx(pid, |tx| {
                    tx.savepoints.push(Mark {
                        name,
                        rows: tx.rows.clone(),
                        records: tx.records.len(),
                        locks: tx.locks.len(),
                    });
                });
                Ok(Answer::new("SAVEPOINT"))
            }
            Statement::Release(name) => {
                let at = self.with_tx(pid, |tx| {
                    let at = tx.savepoints.iter().rposition(|mark| mark.name == name)?;
                    tx.savepoints.truncate(at);
                    Some(at)
                });
                at.flatten().map(|_| Answer::new("RELEASE")).ok_or_else(|| no_savepoint(&name))
            }
            Statement::RollbackTo(name) => self.return_to(pid, &name),
        }
    }

    async fn insert(
        &self,
        pid: u64,
        table: &'static Shape,
        columns: &[usize],
        values: &[Expr],
        returning: bool,
    ) -> Done {
        let row = self.new_row(table, columns, values);
        self.put(pid, table, row.clone()).await?;
        let mut answer = Answer::new("INSERT 0");
        answer.rows = Some(1);
        answer.captured.push(captured(1, table, Op::Insert, None, Some(&row)));
        if returning {
            answer.lines.push(vec![row[0]]);
        }
        Ok(answer)
    }

    fn new_row(&self, table: &Shape, columns: &[usize], values: &[Expr]) -> Row {
        let mut state = self.lock();
        let mut row = vec![0; table.columns.len()];
        if let Some(sequence) = table.sequence.filter(|_| !columns.contains(&0)) {
            let known = state.disk.sequences.get_mut(sequence).expect("the table's sequence");
            known.0 += i64::from(known.1);
            known.1 = true;
            row[0] = known.0;
            // The last column of that table is a clock.
            row[table.columns.len() - 1] = self.now();
        }
        for (column, value) in columns.iter().zip(values) {
            row[*column] = self.value(&mut state, value, &row);
        }
        row
    }

    /// Puts a new row in, once nobody else has its place.
    async fn put(&self, pid: u64, table: &'static Shape, row: Row) -> Result<(), Refusal> {
        let place = (table.name, row[0]);
        self.take(pid, place, Mode::Exclusive).await?;
        if visible(&self.lock(), pid, place).is_some() {
            return Err(duplicate(table.name, row[0]));
        }
        let follower = self.lock().follows(pid);
        if let Some((column, parent)) = table.refers.filter(|_| !follower) {
            let parent = (parent, row[column]);
            self.take(pid, parent, Mode::Shared).await?;
            if visible(&self.lock(), pid, parent).is_none() {
                return Err(Refusal::new("23503", "the parent is not there"));
            }
        }
        self.with_tx(pid, |tx| tx.rows.insert(place, Some(row)));
        Ok(())
    }

    /// Changes or removes each row that a filter finds.
    async fn each(
        &self,
        pid: u64,
        table: &'static Shape,
        filter: &Filter,
        (tag, op): (&'static str, Op),
        returning: bool,
        change: impl Fn(&mut State, &Row) -> Option<Row>,
    ) -> Done {
        let mut answer = Answer::new(tag);
        for id in self.candidates(pid, table, filter) {
            let place = (table.name, id);
            self.take(pid, place, Mode::Exclusive).await?;
            let mut state = self.lock();
            // Whoever held the row may have changed it: it is judged again as it is now.
            let Some(old) = visible(&state, pid, place).filter(|row| filter.holds(row)) else {
                continue;
            };
            if op == Op::Delete {
                check_unreferenced(&state, pid, table, id)?;
            }
            let new = change(&mut state, &old);
            let serial = answer.captured.len() as u64 + 1;
            answer.captured.push(captured(serial, table, op, Some(&old), new.as_ref()));
            if returning {
                answer.lines.push(vec![id]);
            }
            if let Some(tx) = state.seats.get_mut(&pid).and_then(|seat| seat.tx.as_mut()) {
                tx.rows.insert(place, new);
            }
        }
        answer.rows = Some(answer.captured.len() as u64);
        Ok(answer)
    }

    /// The keys of the rows that a statement sees, in an order of this server's own.
    fn candidates(&self, pid: u64, table: &'static Shape, filter: &Filter) -> Vec<i64> {
        let mut state = self.lock();
        let mut ids = all_visible(&state, pid, table, |row| filter.holds(row));
        if let Some(terms) = &filter.pick {
            ids.retain(|id| {
                let place = (table.name, *id);
                let row = visible(&state, pid, place);
                row.is_some_and(|row| all_hold(terms, &row)) && !state.locks.is_taken(pid, place)
            });
            ids.truncate(1);
            for id in &ids {
                let _ = take_now(&mut state, pid, (table.name, *id), Mode::Exclusive);
            }
        } else if self.index % 2 == 1 {
            ids.reverse();
        }
        ids
    }

    fn changed(&self, state: &mut State, sets: &[(usize, Expr)], row: &Row) -> Row {
        let mut new = row.clone();
        for (column, expr) in sets {
            new[*column] = self.value(state, expr, row);
        }
        new
    }

    fn value(&self, state: &mut State, expr: &Expr, row: &Row) -> i64 {
        match expr {
            Expr::Number(n) => *n,
            Expr::Column(column) => row[*column],
            Expr::Plus(column, n) => row[*column] + n,
            Expr::Random => state.dice.random_range(0..1_000_000),
            Expr::Now => self.now(),
        }
    }

    /// Every server has a clock of its own.
    fn now(&self) -> i64 {
        self.world().elapsed_ms() * 10 + i64::try_from(self.index).unwrap_or(0)
    }

    /// Rows as they were captured elsewhere.
    pub(crate) async fn apply(
        &self,
        pid: u64,
        relation_name: &str,
        op: Op,
        old: &[String],
        new: &[String],
    ) -> Done {
        let table = SHAPES.iter().find(|shape| relation(shape.name) == relation_name);
        let table = table.ok_or_else(|| missing(relation_name))?;
        if op == Op::Insert {
            for row in new {
                self.put(pid, table, text_row(row)).await?;
            }
            return Ok(Answer::new("SELECT"));
        }
        for (n, old) in old.iter().enumerate() {
            let place = (table.name, text_row(old)[0]);
            let there = visible(&self.lock(), pid, place).is_some();
            if there {
                self.take(pid, place, Mode::Exclusive).await?;
            }
            if !there || visible(&self.lock(), pid, place).is_none() {
                let what = format!("a row of {} was not found: {old}", table.name);
                return Err(Refusal::new("LS001", what));
            }
            let new = new.get(n).map(|row| text_row(row));
            self.with_tx(pid, |tx| tx.rows.insert(place, new));
        }
        Ok(Answer::new("SELECT"))
    }
}

/// A row as a session sees it: its own changes over what is committed.
fn visible(state: &State, pid: u64, place: Place) -> Option<Row> {
    let tx = state.seats.get(&pid).and_then(|seat| seat.tx.as_ref());
    match tx.and_then(|tx| tx.rows.get(&place)) {
        Some(own) => own.clone(),
        None => state.disk.row(place).cloned(),
    }
}

fn all_visible(
    state: &State,
    pid: u64,
    table: &'static Shape,
    wanted: impl Fn(&Row) -> bool,
) -> Vec<i64> {
    let mut ids: Vec<i64> = state.disk.tables[table.name].keys().copied().collect();
    if let Some(tx) = state.seats.get(&pid).and_then(|seat| seat.tx.as_ref()) {
        ids.extend(tx.rows.keys().filter(|(name, _)| *name == table.name).map(|(_, id)| *id));
        ids.sort_unstable();
        ids.dedup();
    }
    ids.retain(|id| visible(state, pid, (table.name, *id)).is_some_and(|row| wanted(&row)));
    ids
}

fn check_unreferenced(state: &State, pid: u64, table: &Shape, id: i64) -> Result<(), Refusal> {
    if state.follows(pid) {
        return Ok(());
    }
    for child in &SHAPES {
        if let Some((column, _)) = child.refers.filter(|(_, parent)| *parent == table.name)
            && !all_visible(state, pid, child, |row| row[column] == id).is_empty()
        {
            return Err(Refusal::new("23503", "the row is referred to"));
        }
    }
    Ok(())
}

fn captured(serial: u64, table: &Shape, op: Op, old: Option<&Row>, new: Option<&Row>) -> Captured {
    Captured::Row(CapturedRow {
        serial,
        relation: relation(table.name),
        op,
        old: old.map(row_text).unwrap_or_default(),
        new: new.map(row_text).unwrap_or_default(),
    })
}

pub(crate) fn missing(what: &str) -> Refusal {
    Refusal::new("42P01", format!("{what} is not there"))
}

pub(crate) fn no_savepoint(name: &str) -> Refusal {
    Refusal::new("3B001", format!("savepoint {name} does not exist"))
}

pub(crate) fn duplicate(table: &str, id: i64) -> Refusal {
    Refusal::new("23505", format!("{table} has key {id} already"))
}

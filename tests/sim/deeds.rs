//! Transactions of several statements: BEGIN, steps, savepoints, and one of several ends.

use rand::Rng;

use crate::app::{App, Deed, Delta, Outcome, Reply, Trouble, pop};

impl App {
    /// A transaction from BEGIN to its end.
    pub(crate) async fn explicit(&mut self, deed: &mut Deed) -> Outcome {
        match self.steps(deed).await {
            Ok(true) => {}
            Ok(false) => return Outcome::Failed,
            Err(Trouble::Lost) => return Outcome::Failed,
            Err(Trouble::Error(_)) => {
                // What has failed can only be rolled back, and that is never refused.
                let _ = self.ask("ROLLBACK", None).await;
                return Outcome::Failed;
            }
        }
        if self.chance(12) {
            let _ = self.ask("ROLLBACK", None).await;
            return Outcome::Failed;
        }
        if self.chance(30) {
            self.commit_and_vanish().await;
            return Outcome::InDoubt;
        }
        let done = self.ask("COMMIT", Some(deed.mark)).await;
        if done.as_ref().is_ok_and(|reply| reply.tag != "COMMIT") {
            self.world.complain(format!("COMMIT of {} was answered {done:?}", deed.mark));
        }
        Self::outcome(&done)
    }

    /// The statements. False when the application went away among them.
    async fn steps(&mut self, deed: &mut Deed) -> Result<bool, Trouble> {
        self.ask("BEGIN", None).await?;
        let count = self.dice.random_range(1..=4);
        let marked = self.dice.random_range(0..=count);
        for n in 0..=count {
            if n == marked {
                let (mark, app) = (deed.mark, self.number);
                self.ask(&format!("INSERT INTO note (id, client) VALUES ({mark}, {app})"), None)
                    .await?;
                deed.deltas.push(Delta::Note);
            } else if self.chance(5) {
                self.divided(deed, n).await?;
            } else {
                self.step(deed, n).await?;
            }
            if self.chance(60) {
                self.vanish();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Steps inside a savepoint, which is then kept, or gone back to.
    async fn divided(&mut self, deed: &mut Deed, n: i64) -> Result<(), Trouble> {
        self.ask("SAVEPOINT s", None).await?;
        let before = deed.deltas.len();
        let mut done = self.step(deed, n + 10).await;
        if done.is_ok() && self.chance(2) {
            done = self.step(deed, n + 20).await;
        }
        match done {
            Ok(()) if self.chance(2) => {
                self.ask("RELEASE SAVEPOINT s", None).await?;
            }
            Ok(()) | Err(Trouble::Error(_)) => {
                self.ask("ROLLBACK TO SAVEPOINT s", None).await?;
                deed.deltas.truncate(before);
            }
            Err(Trouble::Lost) => return Err(Trouble::Lost),
        }
        Ok(())
    }

    /// One step: what it changes is noted once it has been answered.
    async fn step(&mut self, deed: &mut Deed, n: i64) -> Result<(), Trouble> {
        let counter = self.dice.random_range(1..=crate::tables::COUNTERS);
        // Where COMMITs reach the followers late, rows that were inserted a moment ago matter most.
        let late = !self.world.scenario.flush.is_zero();
        match self.dice.random_range(0..10) {
            3..8 if late => {
                self.family(deed.mark * 100 + n).await?;
            }
            0 | 1 => self.move_money(deed).await?,
            2 => self.move_what_was_read(deed).await?,
            3 => {
                self.ask(&format!("UPDATE counter SET n = n + 1 WHERE id = {counter}"), None)
                    .await?;
                deed.deltas.push(Delta::Counter(counter, 1));
            }
            4 => {
                let sql = format!(
                    "UPDATE counter SET n = n + 1 WHERE id < {counter} AND n < 12 RETURNING id"
                );
                let reply = self.ask(&sql, None).await?;
                deed.deltas.extend(reply.rows.iter().map(|row| Delta::Counter(row[0], 1)));
            }
            5 => {
                let sql = format!("UPDATE counter SET r = random() WHERE id = {counter}");
                self.ask(&sql, None).await?;
            }
            6 => {
                let (app, number) = (self.number, deed.mark * 100 + n);
                let sql =
                    format!("INSERT INTO event (client, n) VALUES ({app}, {number}) RETURNING id");
                self.ask(&sql, None).await?;
                deed.deltas.push(Delta::Event(number));
            }
            7 => {
                let reply = self.ask(&pop(deed.mark), None).await?;
                deed.deltas.extend(reply.rows.iter().map(|row| Delta::Job(row[0])));
            }
            8 => {
                self.family(deed.mark * 100 + n).await?;
            }
            _ => {
                self.ask(&format!("SELECT id, n FROM counter WHERE id = {counter}"), None).await?;
            }
        }
        Ok(())
    }

    async fn move_money(&mut self, deed: &mut Deed) -> Result<(), Trouble> {
        let (from, to, amount) = self.transfer();
        let mut parts = [(from, -amount), (to, amount)];
        if self.chance(2) {
            parts.reverse();
        }
        for (id, amount) in parts {
            let sign = if amount < 0 { '-' } else { '+' };
            let sql = format!(
                "UPDATE account SET balance = balance {sign} {} WHERE id = {id}",
                amount.abs()
            );
            self.ask(&sql, None).await?;
        }
        deed.deltas.extend(parts.map(|(id, amount)| Delta::Account(id, amount)));
        Ok(())
    }

    /// Writes what it has worked out from a row that it has locked: right only while nobody else
    /// changes that row.
    async fn move_what_was_read(&mut self, deed: &mut Deed) -> Result<(), Trouble> {
        let (from, to, amount) = self.transfer();
        let read = format!("SELECT balance FROM account WHERE id = {from} FOR UPDATE");
        let balance = self.ask(&read, None).await?.rows[0][0];
        let rest = balance - amount;
        self.ask(&format!("UPDATE account SET balance = {rest} WHERE id = {from}"), None).await?;
        let sql = format!("UPDATE account SET balance = balance + {amount} WHERE id = {to}");
        self.ask(&sql, None).await?;
        deed.deltas.extend([Delta::Account(from, -amount), Delta::Account(to, amount)]);
        Ok(())
    }

    /// Parents and children, which keep each other from going.
    async fn family(&mut self, id: i64) -> Result<Reply, Trouble> {
        let mut parent = self.dice.random_range(1..=8);
        if !self.world.scenario.flush.is_zero() {
            parent = parent % 3 + 1;
        }
        let sql = match self.dice.random_range(0..5) {
            0 => format!("INSERT INTO parent (id, v) VALUES ({parent}, 0)"),
            1 => format!("DELETE FROM parent WHERE id = {parent}"),
            2 => format!("DELETE FROM child WHERE parent = {parent}"),
            _ => format!("INSERT INTO child (id, parent) VALUES ({id}, {parent})"),
        };
        self.ask(&sql, None).await
    }
}

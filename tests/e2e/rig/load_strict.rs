//! Transactions that cannot fail on one server: an error here is the proxy's.

use rand::Rng;
use tokio_postgres::Error;

use super::load::{End, Worker};

impl Worker {
    pub(crate) async fn strict(&mut self, token: &str) -> Result<End, Error> {
        match self.dice.random_range(0..12) {
            0 => {
                let sql = format!("insert into ledger(token) values ('{token}')");
                self.final_simple(sql).await
            }
            1 => {
                self.doing("prepared autocommit insert");
                self.commits_now();
                let open = self.open();
                open.session.execute(&open.add, &[&token, &None::<i32>]).await?;
                Ok(End::Committed)
            }
            2 => {
                let sql = format!("begin; insert into ledger(token) values ('{token}'); commit");
                self.final_simple(sql).await
            }
            3 | 4 => self.count(token).await,
            5 | 6 => self.transfer(token).await,
            7 => self.savepoint(token).await,
            8 => self.take_back(token).await,
            9 => self.items(token).await,
            10 => {
                let sql = format!(
                    "with fresh as (insert into ledger(token) values ('{token}') returning id, at)
                     insert into item(grp, x, at) select {}, 1, at from fresh",
                    self.number
                );
                self.final_simple(sql).await
            }
            _ => {
                // One implicit transaction of several statements.
                let grp = self.number;
                let sql = format!(
                    "insert into ledger(token) values ('{token}'); insert into item(grp, x) values ({grp}, 7);
                     update item set x = x + 1, at = now() where grp = {grp} and x < 3"
                );
                self.final_simple(sql).await
            }
        }
    }

    /// Keyed increments in key order.
    async fn count(&mut self, token: &str) -> Result<End, Error> {
        let counter: i32 = self.dice.random_range(1..=12);
        let open = self.open();
        self.simple("begin").await?;
        self.pause(2).await;
        self.doing("prepared increment");
        open.session.execute(&open.count, &[&counter]).await?;
        self.doing("prepared insert");
        open.session.execute(&open.add, &[&token, &counter]).await?;
        self.final_simple("commit").await
    }

    /// Money from one account to another, computed by the client from rows it has locked, in key
    /// order.
    async fn transfer(&mut self, token: &str) -> Result<End, Error> {
        let first: i32 = self.dice.random_range(1..20);
        let second: i32 = self.dice.random_range(first + 1..=20);
        let amount: i64 = self.dice.random_range(-50..=50);
        let open = self.open();
        self.simple("begin").await?;
        let mut balances = [0_i64; 2];
        for (balance, id) in balances.iter_mut().zip([first, second]) {
            self.doing("select for update");
            let sql = "select balance from account where id = $1 for update";
            *balance = open.session.query_one(sql, &[&id]).await?.get(0);
        }
        self.pause(3).await;
        for (balance, id, change) in [(balances[0], first, -amount), (balances[1], second, amount)]
        {
            self.doing("update of an account");
            let sql = "update account set balance = $1, touched = now() where id = $2";
            open.session.execute(sql, &[&(balance + change), &id]).await?;
        }
        self.simple(format!("insert into ledger(token) values ('{token}')")).await?;
        self.final_simple("commit").await
    }

    /// What is rolled back to a savepoint is nowhere, what stands around it is everywhere.
    async fn savepoint(&mut self, token: &str) -> Result<End, Error> {
        let counter = self.dice.random_range(1..=12);
        self.simple("begin").await?;
        self.simple("savepoint s").await?;
        self.simple(format!("insert into ledger(token, ctr) values ('{token}', {counter})"))
            .await?;
        self.simple(format!("update counter set n = n + 1 where id = {counter}")).await?;
        self.pause(2).await;
        self.simple("rollback to savepoint s").await?;
        if self.dice.random_bool(0.5) {
            self.simple("release savepoint s").await?;
        }
        self.simple(format!("insert into ledger(token, ctr) values ('{token}', {counter})"))
            .await?;
        self.simple(format!("update counter set n = n + 1 where id = {counter}")).await?;
        self.final_simple("commit").await
    }

    async fn take_back(&mut self, token: &str) -> Result<End, Error> {
        let counter = self.dice.random_range(1..=12);
        self.simple("begin").await?;
        self.simple(format!("update counter set n = n + 1 where id = {counter}")).await?;
        self.simple(format!("insert into ledger(token, ctr) values ('{token}', {counter})"))
            .await?;
        self.pause(3).await;
        self.simple("rollback").await?;
        Ok(End::RolledBack)
    }

    /// Rows of this session's own group, by predicate, with values that only one server can have
    /// made.
    async fn items(&mut self, token: &str) -> Result<End, Error> {
        let grp = self.number;
        self.simple("begin").await?;
        self.simple(format!(
            "insert into item(grp, x) select {grp}, g from generate_series(1, 3) g"
        ))
        .await?;
        self.simple(format!(
            "update item set noise = random(), at = clock_timestamp() where grp = {grp} and x > 1"
        ))
        .await?;
        self.simple(format!(
            "delete from item where id in (select id from item where grp = {grp} order by random() limit 2)"
        ))
        .await?;
        self.simple(format!("insert into ledger(token) values ('{token}')")).await?;
        self.final_simple("commit").await
    }
}

//! Transactions as applications write them, that meet each other: predicates, upserts, cascades,
//! queues.

use rand::Rng;
use tokio_postgres::Error;

use super::load::{End, Worker};

/// What such transactions may honestly fail with on one server: a deadlock, a missing parent, a
/// taken key.
pub(crate) const HONEST: [&str; 3] = ["40P01", "23503", "23505"];

impl Worker {
    pub(crate) async fn wild(&mut self, token: &str) -> Result<End, Error> {
        self.simple("begin").await?;
        for _ in 0..self.dice.random_range(1..=5) {
            self.pause(2).await;
            if self.dice.random_bool(0.12) {
                self.simple("savepoint s").await?;
                self.statement().await?;
                self.simple("rollback to s").await?;
            } else {
                self.statement().await?;
            }
        }
        self.simple(format!("insert into ledger(token) values ('{token}')")).await?;
        if self.dice.random_bool(0.15) {
            self.simple("rollback").await?;
            return Ok(End::RolledBack);
        }
        self.final_simple("commit").await
    }

    async fn statement(&mut self) -> Result<(), Error> {
        let key = self.dice.random_range(1..=12);
        let me = self.number;
        let sql = match self.dice.random_range(0..=10) {
            0 => format!("insert into parent values ({key}, {me}) on conflict (id) do update set v = parent.v + 1"),
            1 => format!("delete from parent where id = {key}"),
            2 | 3 => format!("insert into child(pid, x, y) values ({key}, {}, {})", self.digit(), self.digit()),
            4 => return self.extended("update parent set v = v * 2 + 1 - (v / 3) where id = $1 and v < 100000", key).await,
            5 => format!(
                "update child set x = (x + y) % 10, y = (y + 1) % 10 where x > {} and y < {}",
                self.dice.random_range(3..=9),
                self.dice.random_range(2..=6)
            ),
            6 => "delete from child where id in (select id from child order by random() limit 3)".into(),
            7 => format!(
                "insert into uq values ({}, 'e{}', {me}) on conflict do nothing",
                self.dice.random_range(1..=40),
                self.dice.random_range(1..=40)
            ),
            8 => {
                let key = self.dice.random_range(1..=40);
                return self.extended("delete from uq where k = $1", key).await;
            }
            9 => format!(
                "update job set state = 'run', owner = {me} where id = (select id from job where state = 'new'
                 order by id limit 1 for update skip locked) returning id, owner"
            ),
            _ => format!(
                "insert into job(owner) select g from parent p, generate_series(1, 2) g where p.v < {} limit 3",
                self.dice.random_range(0..=50)
            ),
        };
        self.simple(sql).await
    }

    async fn extended(&mut self, sql: &str, key: i32) -> Result<(), Error> {
        self.doing(sql);
        let open = self.open();
        open.session.execute(sql, &[&key]).await.map(|_| ())
    }

    fn digit(&mut self) -> i32 {
        self.dice.random_range(0..=9)
    }
}

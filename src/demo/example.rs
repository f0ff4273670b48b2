//! What a demo server holds at the start: the same on each of them.

use super::server::{Server, Site};
use super::{DemoError, Result};

/// Every value is written out: what a server would choose by itself (a time, a number of a
/// sequence) need not be the same on the next one.
const TABLES: &str = "
    create table accounts (id int primary key, owner text not null, balance int not null);
    insert into accounts values (1, 'Ada', 100), (2, 'Grace', 100), (3, 'Edsger', 100);
    create table visits (
        id bigint generated always as identity primary key,
        who text not null,
        at timestamptz not null default now(),
        token uuid not null default gen_random_uuid());
    ";

/// Creates the database `app`, its user `app`, and two tables.
pub(super) async fn fill(site: &Site, server: &Server) -> Result<()> {
    let mut owner = server.admin(site, "app");
    owner.user("app").password("app");
    run(
        &server.admin(site, "postgres"),
        &["create role app login password 'app'", "create database app owner app"],
    )
    .await
    .map_err(|error| wrong(server, &error))?;
    run(&owner, &[TABLES]).await.map_err(|error| wrong(server, &error))
}

async fn run(
    config: &tokio_postgres::Config,
    statements: &[&str],
) -> std::result::Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    let work = async {
        for statement in statements {
            client.batch_execute(statement).await?;
        }
        Ok(())
    };
    tokio::select! {
        done = work => done,
        ended = connection => ended,
    }
}

fn wrong(server: &Server, error: &tokio_postgres::Error) -> DemoError {
    let detail = error.as_db_error().map(ToString::to_string);
    let detail = detail.unwrap_or_else(|| error.to_string());
    DemoError::new(format!("server {} could not be filled: {detail}", server.name))
}

//! Sequences, the control row, the journal and the fence.

use super::server::{Pair, TOKEN, connect};
use lockstep::cluster::{Arbiter, Ask, Ballot, Refusal, Roster, Vote};
use lockstep::store::control::{self, Control, FenceError};
use lockstep::store::journal::{
    ADVANCE_SQL, RECORD_SQL, RESET_SEQUENCE_SQL, SEQUENCES_SQL, armoured,
};
use lockstep::store::vote::{self, Poll, Secrets};
use std::time::Duration;
use tokio_postgres::Client;

async fn stands(client: &Client, name: &str) -> (i64, bool) {
    let names = vec![name.to_owned()];
    let row = client.query_one(SEQUENCES_SQL, &[&TOKEN, &names]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), name);
    (row.get(1), row.get(2))
}

#[tokio::test]
async fn a_sequence_never_goes_back_whoever_advances_it_at_once() {
    let pair = Pair::new().await;
    pair.both("CREATE SEQUENCE \"Up\"; CREATE SEQUENCE down INCREMENT -5; CREATE SEQUENCE small AS smallint").await;
    let user = pair.user("seq").await;
    let (up, down, small) = ("\"public\".\"Up\"", "\"public\".\"down\"", "\"public\".\"small\"");
    let admin = pair.admin(0).await;
    let mut tasks = Vec::new();
    for worker in 0..8_i64 {
        let (client, _) = connect(&pair.servers[0], &pair.database, &user).await;
        tasks.push(tokio::spawn(async move {
            for i in 0..40_i64 {
                let value = (i * 37 + worker * 101) % 997;
                client.execute(ADVANCE_SQL, &[&TOKEN, &up, &value]).await.unwrap();
                client.execute(ADVANCE_SQL, &[&TOKEN, &down, &-value]).await.unwrap();
                assert!(stands(&client, up).await.0 >= value);
                assert!(stands(&client, down).await.0 <= -value);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    admin.batch_execute("BEGIN").await.unwrap();
    admin.execute(ADVANCE_SQL, &[&TOKEN, &small, &1_000_000_i64]).await.unwrap();
    assert_eq!(stands(&admin, small).await, (32767, true));
    let held = admin
        .query_one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", &[])
        .await
        .unwrap();
    assert_eq!(held.get::<_, i64>(0), 0);
    admin.batch_execute("COMMIT").await.unwrap();
    admin.execute(RESET_SEQUENCE_SQL, &[&TOKEN, &armoured(up), &5_i64, &false]).await.unwrap();
    assert_eq!(stands(&admin, up).await, (5, false));
    admin.execute(ADVANCE_SQL, &[&TOKEN, &up, &5_i64]).await.unwrap();
    assert_eq!(stands(&admin, up).await, (5, true));
    let all = control::all_sequences(&admin).await.unwrap();
    let names: Vec<&str> = all.iter().map(|sequence| &*sequence.name).collect();
    assert_eq!(names, [up, down, small]);
    assert_eq!(admin.query(SEQUENCES_SQL, &[&TOKEN, &None::<Vec<String>>]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_control_row_goes_forward_only() {
    let pair = Pair::new().await;
    let admin = pair.admin(0).await;
    assert_eq!(control::read_control(&admin).await.unwrap(), None);
    let system = control::identity(&admin).await.unwrap().system_identifier;
    let first = Control { system_identifier: system, ..fresh_row() };
    control::write_control(&admin, &first).await.unwrap();
    assert_eq!(control::read_control(&admin).await.unwrap(), Some(first));
    let ballot = Ballot::NONE;
    control::set_complete(&admin, 10, ballot).await.unwrap();
    control::set_complete(&admin, 5, ballot).await.unwrap();
    control::set_complete(&admin, 11, Ballot::above([ballot], 1)).await.unwrap();
    assert_eq!(control::read_control(&admin).await.unwrap().unwrap().complete_to, 10);
}

#[tokio::test]
async fn a_backend_votes_as_the_rules_say_and_remembers() {
    let pair = Pair::new().await;
    let admin = pair.admin(0).await;
    control::write_control(&admin, &fresh_row()).await.unwrap();
    let (low, high) = (Ballot::above([], 1), Ballot::above([], 2));
    let ask = |ask: Ask, secrets: Option<Secrets>| Poll {
        cluster: "c".into(),
        backend: "a".into(),
        ask,
        secrets,
    };
    let secrets = Secrets { token: "mine".into(), capture: "x".into(), users: vec![] };
    // What the row says is what the rules in memory say, step by step.
    let mut vote = fresh_row().vote;
    let next = |number, member: &str| Roster {
        number,
        members: vec![member.into()],
        arbiter: Arbiter::Witness("w".into()),
    };
    for question in [
        Ask::Prepare(high),
        Ask::Prepare(low),
        Ask::Accept(high, next(3, "a")),
        Ask::Accept(high, next(2, "a")),
        Ask::Install(low, next(2, "b")),
        Ask::Install(high, next(2, "a")),
        Ask::Claim(high, next(2, "a")),
        Ask::Stand(Ballot::above([high], 0), 1),
    ] {
        let expected = vote.on(&question).map(|()| vote.clone());
        let answer = vote::poll(&admin, &ask(question.clone(), None)).await.unwrap();
        assert_eq!(answer, expected, "{question:?}");
        assert_eq!(control::read_control(&admin).await.unwrap().unwrap().vote, vote);
    }
    assert_eq!(control::read_tokens(&admin).await.unwrap().unwrap().0, TOKEN);
    let higher = Ballot::above([high], 1);
    let refused = vote::poll(&admin, &ask(Ask::Prepare(low), Some(secrets.clone()))).await;
    assert!(refused.unwrap().is_err());
    assert_eq!(
        control::read_tokens(&admin).await.unwrap().unwrap().0,
        TOKEN,
        "no promise, no token"
    );
    vote::poll(&admin, &ask(Ask::Prepare(higher), Some(secrets))).await.unwrap().unwrap();
    assert_eq!(control::read_tokens(&admin).await.unwrap().unwrap().0, "mine");
    // Signs of life are taken from whom it obeys only, and begin anew with each.
    assert!(!vote::beat(&admin, high, "old").await.unwrap());
    assert!(vote::beat(&admin, higher, "new").await.unwrap());
    let now = control::read_control(&admin).await.unwrap().unwrap();
    assert_eq!((now.writer.as_str(), now.beat), ("new", 2));
    vote::lay_down(&admin, high).await.unwrap();
    assert_eq!(control::read_control(&admin).await.unwrap().unwrap().beat, 2);
    vote::lay_down(&admin, higher).await.unwrap();
    let now = control::read_control(&admin).await.unwrap().unwrap();
    assert_eq!((now.writer.as_str(), now.beat), ("", 0));
    assert!(vote::beat(&admin, higher, "new").await.unwrap(), "it obeys still");
    let now = control::read_control(&admin).await.unwrap().unwrap();
    assert_eq!((now.writer.as_str(), now.beat), ("", -1), "too late to be a sign of life");
    // Another cluster's proxy gets nothing, and nobody writes what is no ballot.
    let stranger = Poll { cluster: "other".into(), ..ask(Ask::Prepare(higher), None) };
    assert!(vote::poll(&admin, &stranger).await.unwrap_err().contains("cluster c"));
    assert!(admin.batch_execute("UPDATE lockstep.control SET promised = 'x'").await.is_err());
}

#[tokio::test]
async fn two_who_ask_at_once_are_not_both_obeyed() {
    let pair = Pair::new().await;
    let admin = pair.admin(0).await;
    control::write_control(&admin, &fresh_row()).await.unwrap();
    let mut asking = Vec::new();
    for salt in 1..=8 {
        let admin = pair.admin(0).await;
        let ask = Ask::Prepare(Ballot::above([], salt));
        let poll = Poll { cluster: "c".into(), backend: "a".into(), ask, secrets: None };
        asking.push(tokio::spawn(async move { vote::poll(&admin, &poll).await.unwrap() }));
    }
    for asked in asking {
        // Whoever was obeyed was the highest at that moment.
        let answer = asked.await.unwrap();
        assert!(answer.is_ok() || matches!(answer, Err(Refusal::Promised(_))), "{answer:?}");
    }
    let now = control::read_control(&admin).await.unwrap().unwrap();
    assert_eq!(now.vote.promised, Ballot::above([], 8));
}

/// The control row of a backend that has just been initialised.
fn fresh_row() -> Control {
    Control {
        cluster_id: "c".into(),
        backend: "a".into(),
        system_identifier: "1".into(),
        vote: Vote { roster: Roster { number: 1, ..Roster::default() }, ..Vote::default() },
        writer: String::new(),
        beat: 0,
        complete_to: 0,
        pruned_to: 0,
    }
}

#[tokio::test]
async fn the_journal_is_written_with_the_transaction_and_pruned_behind_it() {
    let pair = Pair::new().await;
    let admin = pair.admin(0).await;
    control::write_control(&admin, &fresh_row()).await.unwrap();
    let user = pair.user("rec").await;
    let (client, _) = connect(&pair.servers[0], &pair.database, &user).await;
    for seq in 1..=10_i64 {
        client.batch_execute("BEGIN").await.unwrap();
        client
            .execute(RECORD_SQL, &[&TOKEN, &seq, &(seq * 7), &None::<String>, &vec![1_u8]])
            .await
            .unwrap();
        client.batch_execute(if seq == 4 { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
    }
    let again = client
        .execute(RECORD_SQL, &[&TOKEN, &10_i64, &1_i64, &user, &vec![1_u8]])
        .await
        .unwrap_err();
    assert_eq!(again.code().unwrap().code(), "23505");
    assert_eq!(control::journal_tail(&admin, 8).await.unwrap(), [(9, 63), (10, 70)]);
    assert_eq!(control::read_records(&admin, 2, 2).await.unwrap()[1].seq, 5);
    let some = control::read_records_by_seq(&admin, &[10, 4, 1]).await.unwrap();
    assert_eq!((some.len(), some[0].id, some[1].user.as_str()), (2, 7, &*user));
    assert_eq!(control::prune(&admin, 8, 3, Ballot::NONE).await.unwrap(), 3);
    assert_eq!(control::read_control(&admin).await.unwrap().unwrap().pruned_to, 3);
    assert_eq!(control::prune(&admin, 8, 100, Ballot::NONE).await.unwrap(), 4);
    assert_eq!(control::prune(&admin, 8, 100, Ballot::NONE).await.unwrap(), 0);
    assert_eq!(control::read_control(&admin).await.unwrap().unwrap().pruned_to, 8);
    assert_eq!(control::journal_end(&admin).await.unwrap(), 10);
    let stranger = Ballot::above([], 1);
    assert_eq!(control::prune(&admin, 99, 100, stranger).await.unwrap(), 0, "obeys somebody else");
    control::prune(&admin, 99, 100, Ballot::NONE).await.unwrap();
    assert_eq!(control::journal_end(&admin).await.unwrap(), 10);
}

#[tokio::test]
async fn a_fence_leaves_no_session_and_old_tokens_no_power() {
    let pair = Pair::new().await;
    let admin = pair.admin(0).await;
    let user = pair.user("old").await;
    let (idle, _) = connect(&pair.servers[0], &pair.database, &user).await;
    let (busy, _) = connect(&pair.servers[0], &pair.database, &user).await;
    let (other, _) = connect(&pair.servers[0], &pair.database, "postgres").await;
    let sleeping = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(60)").await });
    idle.batch_execute("BEGIN; SELECT pg_backend_pid()").await.unwrap();
    let ended =
        control::fence(&admin, std::slice::from_ref(&user), Duration::from_secs(5)).await.unwrap();
    assert_eq!(ended, 2);
    assert!(sleeping.await.unwrap().is_err() && idle.batch_execute("COMMIT").await.is_err());
    other.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(control::fence(&admin, &[user], Duration::ZERO).await.unwrap(), 0);
    assert_eq!(
        FenceError::Alive(2).to_string(),
        "2 sessions of the former writer are still there after the deadline"
    );
    control::install_tokens(&admin, "new", "new").await.unwrap();
    let refused =
        other.execute(RECORD_SQL, &[&TOKEN, &1_i64, &1_i64, &"x", &vec![0_u8]]).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "42501");
    assert_eq!(control::read_tokens(&admin).await.unwrap(), Some(("new".into(), "new".into())));
}

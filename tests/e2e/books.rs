//! The books that are kept on each backend: a silent one keeps nobody waiting, and one that was restarted
//! unseen is told nothing that may be true of its former self only.

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, TryFutureExt};
use lockstep::cluster::{Ask, Ballot};
use lockstep::config::{Bounds, Config, Live};
use lockstep::control::{Address, PgControl};
use lockstep::keeper::Control;
use lockstep::store::outside::{Fate, Kind, Task};
use lockstep::store::vote::Poll;

use crate::rig::cluster::Options;
use crate::rig::{run_within, secs, step};

type Answer = Result<(), String>;
/// A question to the books of a backend, by its name.
type Question = (&'static str, fn(&dyn Control) -> BoxFuture<'_, Answer>);

fn task() -> Task {
    Task {
        sql: String::new(),
        kind: Kind::CreateIndex,
        relation: "public.t".into(),
        before: vec![],
    }
}

fn prepare() -> Poll {
    let (cluster, backend) = ("c".into(), "a".into());
    Poll { cluster, backend, ask: Ask::Prepare(Ballot::NONE), secrets: None }
}

fn questions() -> Vec<Question> {
    macro_rules! ask {
        ($($call:ident($($argument:expr),*)),* $(,)?) => {
            vec![$({
                fn $call(c: &dyn Control) -> BoxFuture<'_, Answer> {
                    c.$call($($argument),*).map_ok(|_| ()).boxed()
                }
                (stringify!($call), $call as fn(&dyn Control) -> BoxFuture<'_, Answer>)
            }),*]
        };
    }
    ask![
        examine(),
        has_record(1),
        glance(),
        poll(prepare()),
        beat(Ballot::NONE, "p1".into()),
        lay_down(Ballot::NONE),
        probe_write(),
        tail(0),
        owner_of(1, 0, 1),
        records(vec![1]),
        set_complete(0, String::new()),
        weigh(0, 1, 1),
        first_younger(secs(1)),
        prune(0),
        sequences(),
        set_sequences(Vec::new()),
        advance_sequences(vec![("s".into(), 1)]),
        fence(vec!["app".into()]),
        remains(task()),
        clear(task(), Fate::Undone),
        outside(0),
        catalog(),
    ]
}

#[test]
fn no_question_waits_for_a_silent_server() {
    run_within(secs(60), async {
        let cluster = Options::servers(1).prepare();
        cluster.init();
        let config = Config::load(&cluster.config).expect("the configuration");
        let limit = Duration::from_millis(400);
        let live = Live::new(Bounds { probe: limit, pulse: limit, ..Bounds::default() });
        let address = Address::of(&config, &config.backends[0]).expect("an address");
        let open = || PgControl::new(address.clone(), live.clone());
        let asked: Vec<_> = questions().into_iter().map(|q| (q, open(), open())).collect();
        for ((name, _), connected, _) in &asked {
            // Some have a connection already, some need one.
            connected.examine().await.unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        cluster.servers[0].freeze();
        let all = asked.iter().flat_map(|(question, one, other)| {
            [(question, one, "on its connection"), (question, other, "without a connection")]
        });
        let waits = all.map(|((name, ask), control, how)| async move {
            let began = std::time::Instant::now();
            let answer = crate::rig::within(name, secs(15), ask(control)).await;
            let took = began.elapsed();
            let why = answer.expect_err(&format!("{name} {how}: a frozen server answered"));
            assert!(took < limit * 4, "{name} {how}: {why} after {took:?}");
            step(format!("{name} {how}: {why} after {took:?}"));
        });
        join_all(waits).await;
        cluster.servers[0].thaw();
    });
}

#[test]
fn who_was_restarted_is_not_told_that_it_has_everything() {
    run_within(secs(60), async {
        let cluster = Options::servers(1).prepare();
        cluster.init();
        let config = Config::load(&cluster.config).expect("the configuration");
        let address = Address::of(&config, &config.backends[0]).expect("an address");
        let control = PgControl::new(address, Live::new((&config).into()));
        let before = control.examine().await.expect("a look").started;
        let complete = async || {
            let seen = control.examine().await.expect("a look");
            (seen.started, seen.control.expect("a control row").complete_to)
        };
        control.set_complete(3, before.clone()).await.expect("the server it was");
        assert_eq!(complete().await, (before.clone(), 3));
        cluster.servers[0].restart();
        // The old connection is found to be broken by whoever asks first.
        let _ = control.probe_write().await;
        let refused = control.set_complete(5, before).await.expect_err("another start");
        assert!(refused.contains("restarted"), "{refused}");
        let (now, known) = complete().await;
        assert_eq!(known, 3);
        control.set_complete(5, now).await.expect("the server it is");
        assert_eq!(complete().await.1, 5);
    });
}

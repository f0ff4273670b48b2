use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(millis: u64) -> Moment {
    Moment::from_nanos(1_000_000_000_000 + millis * 1_000_000)
}

fn machine(policy: Policy) -> Machine {
    Machine::new(policy, "n1", "run-1", 0, 7)
}

fn ready() -> Standing {
    Standing { candidate: true, live_others: vec!["n2".into()], ..Standing::default() }
}

fn held_by(node: &str, epoch: i64, seq: i64) -> Lease {
    Lease {
        epoch,
        seq,
        holder: node.into(),
        incarnation: format!("run of {node}"),
        ttl: 10 * SECOND,
        ..Lease::unborn()
    }
}

/// Has the machine read the row at that moment.
fn read(machine: &mut Machine, millis: u64, row: &Lease) {
    assert_eq!(machine.poll(at(millis)), Poll::Send(Request::Read), "at {millis}");
    machine.on_answer(at(millis), Answer::Row(Some(row.clone())));
}

/// The first thing other than a read that it sends from then on, and when; the row stays as it is.
fn wish(machine: &mut Machine, from: u64, to: u64, row: &Lease) -> Option<(u64, Request)> {
    let mut now = from;
    while now < to {
        match machine.poll(at(now)) {
            Poll::Send(Request::Read) => machine.on_answer(at(now), Answer::Row(Some(row.clone()))),
            Poll::Send(request) => return Some((now, request)),
            Poll::Wait(_) => now += 10,
        }
    }
    None
}

fn take_at(standing: Standing, row: &Lease) -> Option<u64> {
    let mut machine = machine(Policy::default());
    machine.set_standing(at(0), standing);
    read(&mut machine, 0, row);
    let found = wish(&mut machine, 0, 60_000, row);
    found.map(|(when, request)| {
        assert!(matches!(request, Request::Take(_)), "{request:?}");
        when
    })
}

#[test]
fn a_free_row_is_taken_by_rank_and_a_silent_one_after_the_wait() {
    let free = Lease::unborn();
    assert_eq!(take_at(ready(), &free), Some(0));
    assert_eq!(take_at(Standing { rank: 2, ..ready() }, &free), Some(1000));
    assert_eq!(take_at(Standing { candidate: false, ..ready() }, &free), None);
    let held = held_by("n2", 3, 9);
    assert_eq!(take_at(ready(), &held), Some(10_410));
    assert_eq!(take_at(Standing { rank: 1, ..ready() }, &held), Some(10_910));
    assert_eq!(take_at(ready(), &Lease { paused: Pause::Yes, ..held }), None);
    // Its own former run is known to be gone.
    let own = held_by("n1", 3, 9);
    assert_eq!(take_at(ready(), &own), Some(10_410));
    assert_eq!(take_at(Standing { predecessor_is_gone: true, ..ready() }, &own), Some(0));
}

#[test]
fn a_freed_row_is_left_to_whoever_was_named() {
    let named = |target: &str| Lease { target: target.into(), ..Lease::unborn() };
    assert_eq!(take_at(Standing { rank: 3, ..ready() }, &named("n1")), Some(0));
    assert_eq!(take_at(ready(), &named("n2")), Some(12_000), "until it is plain that it will not");
}

#[test]
fn a_read_only_node_takes_nothing_while_a_normal_one_lives_and_gives_way_to_it() {
    let free = Lease::unborn();
    let reader = Standing { grade: Grade::ReadOnly, normal_alive: true, ..ready() };
    assert_eq!(take_at(reader.clone(), &free), None);
    assert_eq!(take_at(Standing { normal_alive: false, ..reader }, &free), Some(0));
    let mut machine = machine(Policy::default());
    machine.set_standing(at(0), ready());
    let held = Lease { grade: Grade::ReadOnly, ..held_by("n2", 3, 9) };
    read(&mut machine, 0, &held);
    let (when, request) = wish(&mut machine, 0, 5000, &held).expect("it asks");
    assert_eq!(when, 0);
    let Request::Switch(change) = request else { panic!("{request:?}") };
    assert_eq!((change.row.target.as_str(), change.row.holder.as_str()), ("n1", "n2"));
}

#[test]
fn failback_waits_for_its_delay_and_not_while_it_goes_round() {
    let policy = Policy { failback: Some(5 * SECOND), ..Policy::default() };
    let better = Standing { outranks_holder: true, ..ready() };
    let mut calm = machine(policy.clone());
    calm.set_standing(at(0), better.clone());
    let held = held_by("n2", 3, 9);
    read(&mut calm, 0, &held);
    let (when, request) = wish(&mut calm, 0, 9000, &held).expect("it asks");
    assert!(matches!(request, Request::Switch(_)), "{request:?}");
    assert_eq!(when, 5000);

    let mut restless = machine(Policy { min_role_time: SECOND, ..policy });
    restless.set_standing(at(0), better);
    for epoch in 0..4_u64 {
        let number = i64::try_from(epoch).expect("small");
        read(&mut restless, epoch * 1000, &held_by("n2", 3 + number, 9 + number));
    }
    assert!(restless.is_flapping(at(4000)));
    let held = held_by("n2", 6, 12);
    let asked = wish(&mut restless, 4000, 12_000, &held);
    assert_eq!(asked, None, "it moved three times of its own");
    restless.clear();
    assert!(matches!(wish(&mut restless, 12_000, 13_500, &held), Some((_, Request::Switch(_)))));
}

/// A machine that is the master, from `at(0)` on.
fn master(policy: Policy) -> Machine {
    let mut machine = machine(policy);
    machine.set_standing(at(0), ready());
    read(&mut machine, 0, &Lease::unborn());
    let Poll::Send(Request::Take(_)) = machine.poll(at(0)) else { panic!("it takes") };
    machine.on_answer(at(0), Answer::Matched(true));
    machine.on_done(at(0), Done::Started);
    assert_eq!(machine.phase(), PhaseName::Master);
    machine
}

#[test]
fn a_failed_check_moves_it_only_where_that_helps() {
    let mut alone = master(Policy::default());
    alone.set_standing(at(0), Standing { live_others: Vec::new(), ..ready() });
    assert!(alone.may_fail_over(at(60_000)).is_err_and(|why| why.contains("no other node")));
    let young = master(Policy::default());
    assert!(young.may_fail_over(at(1000)).is_err_and(|why| why.contains("too short")));
    assert_eq!(young.may_fail_over(at(31_000)), Ok(()));
    let mut manual = machine(Policy { auto_failover: false, ..Policy::default() });
    manual.set_standing(at(0), ready());
    read(&mut manual, 0, &held_by("n2", 3, 9));
    assert_eq!(wish(&mut manual, 0, 30_000, &held_by("n2", 3, 9)), None, "nothing moves by itself");
    assert!(manual.may_fail_over(at(31_000)).is_err_and(|why| why.contains("auto_failover")));
}

/// One that has taken the lease, could not start, and is about to give it back; with what it had written.
fn could_not_start() -> (Machine, Change) {
    let mut machine = machine(Policy::default());
    machine.set_standing(at(0), ready());
    read(&mut machine, 0, &Lease::unborn());
    let Poll::Send(Request::Take(change)) = machine.poll(at(0)) else { panic!("it takes") };
    machine.on_answer(at(0), Answer::Matched(true));
    machine.on_done(at(0), Done::StartFailed);
    machine.on_done(at(0), Done::Stopped);
    (machine, change)
}

#[test]
fn a_node_that_could_not_start_leaves_it_to_others_for_a_while() {
    let (mut machine, change) = could_not_start();
    let Poll::Send(Request::Release(release)) = machine.poll(at(0)) else { panic!("it releases") };
    assert_eq!(release.expected, change.row.key());
    assert!(release.row.is_free());
    machine.on_answer(at(0), Answer::Matched(true));
    let (when, _) = wish(&mut machine, 0, 60_000, &release.row).expect("it tries again");
    assert_eq!(when, 30_000);
}

#[test]
fn a_master_without_an_answer_stops_in_time_and_one_with_an_old_answer_does_not_go_on() {
    let mut machine = master(Policy::default());
    machine.take_acts();
    let mut now = 0;
    let stopped = loop {
        match machine.poll(at(now)) {
            Poll::Send(_) => machine.on_answer(at(now), Answer::Lost),
            Poll::Wait(_) => now += 10,
        }
        if machine.phase() == PhaseName::Stopping {
            break now;
        }
    };
    assert_eq!(stopped, 7000, "the lease less the time for stopping");
    assert!(machine.take_acts().contains(&Act::Demote(Event::TimeUp)));
    assert_eq!(machine.deadline(), Some(at(10_000)));
}

#[test]
fn a_lost_answer_is_known_again_by_its_stamp_and_an_operator_s_write_extends_nothing() {
    let mut machine = master(Policy::default());
    let Poll::Wait(next) = machine.poll(at(10)) else { panic!("it waits") };
    assert_eq!(next, at(2000));
    let Poll::Send(Request::Renew(lost)) = machine.poll(at(2000)) else { panic!("it renews") };
    machine.on_answer(at(3000), Answer::Lost);
    let Poll::Send(Request::Renew(_)) = machine.poll(at(3250)) else { panic!("it tries again") };
    machine.on_answer(at(3260), Answer::Matched(false));
    read(&mut machine, 3270, &lost.row);
    assert_eq!(machine.deadline(), Some(at(12_000)), "from when the lost one was sent");
    let Poll::Send(Request::Renew(_)) = machine.poll(at(3280)) else { panic!("it renews") };
    machine.on_answer(at(3290), Answer::Matched(false));
    read(&mut machine, 3300, &lost.row.targeted(-1, "n9"));
    assert_eq!(machine.deadline(), Some(at(12_000)));
}

#[test]
fn what_was_left_in_maintenance_is_gone_on_with() {
    let row = |paused| Lease { paused, incarnation: "run-1".into(), ..held_by("n1", 4, 9) };
    let renewed = |mut machine: Machine, paused| {
        read(&mut machine, 0, &row(paused));
        let Poll::Send(Request::Renew(change)) = machine.poll(at(10)) else { panic!("it renews") };
        machine.on_answer(at(20), Answer::Matched(true));
        (machine, change.row.paused)
    };
    let adopting = || machine(Policy::default()).adopting();
    let (mut goes_on, _) = renewed(adopting(), Pause::Yes);
    assert_eq!((goes_on.phase(), goes_on.deadline()), (PhaseName::Starting, None));
    assert!(goes_on.take_acts().contains(&Act::Promote { epoch: 4, grade: Grade::Normal }));
    // Maintenance that is to end does not before the guard knows until when it runs.
    let (mut ending, written) = renewed(adopting(), Pause::Ending);
    assert_eq!((ending.phase(), written), (PhaseName::Starting, Pause::Ending));
    let acts = ending.take_acts();
    let place = |wanted: Act| acts.iter().position(|act| *act == wanted);
    let armed = place(Act::Deadline(Some(at(10_010)))).expect("a deadline");
    assert!(armed < place(Act::Promote { epoch: 4, grade: Grade::Normal }).expect("a start"));
    // One that knows of nothing left starts nothing.
    let other = Machine::new(Policy::default(), "n1", "run-1", 0, 7);
    assert_eq!(renewed(other, Pause::Yes).0.phase(), PhaseName::Claiming);
}

/// How often something else than a read is asked for within ten seconds, if nothing but reads gets an answer.
fn asks(machine: &mut Machine, row: &Lease) -> usize {
    let mut asked = 0;
    for now in 0..10_000 {
        while let Poll::Send(request) = machine.poll(at(now)) {
            let read = matches!(request, Request::Read);
            asked += usize::from(!read);
            assert!(asked < 1000, "without pause");
            let answer = if read { Answer::Row(Some(row.clone())) } else { Answer::Lost };
            machine.on_answer(at(now), answer);
        }
    }
    asked
}

#[test]
fn a_database_that_takes_no_writes_is_not_asked_without_pause() {
    let mut taking = machine(Policy::default());
    taking.set_standing(at(0), ready());
    let retries = 10_000 / Policy::default().retry.as_millis() as usize;
    let asked = asks(&mut taking, &Lease::unborn());
    assert!((retries / 2..=retries + 1).contains(&asked), "{asked} attempts to take it");
    let (mut releasing, taken) = could_not_start();
    let asked = asks(&mut releasing, &taken.row);
    assert!((retries / 2..=retries + 1).contains(&asked), "{asked} attempts to give it back");
}

//! What happens when something dies, is cut off, or stands still.

use super::rig::{Plan, World, wait_until};

const VIP_SECTION: &str = "[[vip]]\naddress = \"10.77.0.100/24\"\nprobe = \"50ms\"\n";

fn plan(nodes: usize) -> Plan {
    Plan { nodes, more: VIP_SECTION.into(), ..Plan::default() }
}

#[test]
fn one_node_serves_and_the_next_takes_over_from_one_that_dies() {
    let Some(world) = World::ready(&plan(3)) else { return };
    let [n1, n2, n3] = [1, 2, 3].map(|n| world.node(n));
    assert!(n1.serves() && !n2.serves() && !n3.serves());
    assert!(n1.has_vip() && !n2.has_vip());
    assert_eq!(n2.status()["message"], "Monitoring Master Server Status");
    assert_eq!((n1.page("/primary").0, n2.page("/primary").0), (200, 503));
    assert_eq!((n1.page("/replica").0, n2.page("/replica").0), (503, 200));
    assert_eq!(n1.page("/agent-check").1, "up ready");
    assert!(
        n1.page("/metrics").1.contains("lockstep_agent_role{resource=\"app\",role=\"master\"} 1")
    );

    // A machine that loses power: its silence is waited for.
    n1.crash();
    let took = wait_until(20, || world.logs(), || n2.role() == "master");
    assert!(took.as_secs_f64() > 2.0, "n2 did not wait for the lease: {took:?}");
    assert!(n2.serves() && n2.has_vip());
    // It comes back, and stands by.
    n1.start();
    n1.wait_for_role("standby");
    n2.crash();
    world.wait_for_master(1);
    assert_eq!(world.terms(), [(1, "n1".to_owned()), (2, "n2".to_owned()), (3, "n1".to_owned())]);
    assert_eq!(n3.role(), "standby", "n3 is the last in line");
    let events = world.tool("events");
    assert!(events.contains("the services are up"), "{events}");
    let downtime = world.tool("downtime");
    assert_eq!(downtime.lines().count(), 4, "{downtime}");
    world.judge();
}

/// What a killed client has handed to its kernel arrives when the cable is in again. On one plain server
/// the new master ends the sessions of the former one first: the page has the line.
const FENCE: &str = "fence = \"psql -h 10.77.0.1 -U postgres -v ON_ERROR_STOP=1 -qc \\\"select \
    pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'postgres' and client_addr \
    <> inet_client_addr() and application_name = 'psql'\\\"\"\n";

#[test]
fn a_master_that_is_cut_off_stops_before_another_begins() {
    let plan = Plan { resource: FENCE.into(), ..plan(2) };
    let Some(world) = World::ready(&plan) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    world.net.cut(1);
    wait_until(15, || n1.log(), || !n1.serves());
    world.wait_for_master(2);
    assert!(!n1.has_vip() && n2.has_vip());
    assert_eq!(n1.page("/primary").0, 503);
    world.net.mend(1);
    n1.wait_for_role("standby");
    world.judge();
}

#[test]
fn the_guard_ends_what_a_frozen_agent_runs() {
    let Some(world) = World::ready(&plan(2)) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    n1.freeze_agent();
    wait_until(15, || n1.log(), || !n1.serves() && !n1.has_vip());
    world.wait_for_master(2);
    n1.thaw();
    n1.wait_for_role("standby");
    assert!(!n1.serves() && n2.serves());
    world.judge();
}

/// Nobody begins while a lease lasts, however long its holder has been silent. There is no address here:
/// whoever asks the network for it would find the former master by that.
#[test]
fn a_master_that_stands_still_for_less_than_its_lease_keeps_it() {
    let times = "ttl = \"10s\"\nrenew = \"500ms\"\nwatch = \"250ms\"\nstop_budget = \"1s\"";
    let Some(world) = World::ready(&Plan { times, ..Plan::default() }) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    world.wait_for_standbys(1, 1);
    n1.freeze_agent();
    std::thread::sleep(std::time::Duration::from_millis(6_500));
    assert!(n1.serves(), "its application goes on for as long as the lease");
    n1.thaw();
    // It renews as soon as it can, and goes on.
    std::thread::sleep(std::time::Duration::from_secs(5));
    let first = world.terms();
    // And for longer than that: its guard ends the application before another one begins.
    n1.freeze_agent();
    wait_until(20, || world.logs(), || n2.role() == "master");
    assert!(!n1.serves());
    n1.thaw();
    n1.wait_for_role("standby");
    world.judge();
    assert_eq!(first, [(1, "n1".to_owned())]);
}

/// It learns while it stops that another has taken the row; after that it is a node like any other.
#[test]
fn a_master_that_is_superseded_while_it_stops_can_be_the_master_again() {
    // Its stop is waited for, also after the time is up.
    let slow =
        "[[service]]\nname = \"slow\"\nkind = \"script\"\nstart = \"true\"\nstop = \"sleep 0.7\"\n";
    let Some(world) = World::ready(&Plan { more: slow.into(), ..Plan::default() }) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    world.wait_for_standbys(1, 1);
    // Its service first, which would write on for a moment when it wakes: this is about the agent.
    n1.signal("KILL", &n1.service_pids());
    n1.signal("STOP", &n1.all_pids());
    world.wait_for_master(2);
    n1.thaw();
    n1.wait_for_role("standby");
    assert!(n1.log().contains("another node has the lease; what still runs is killed"));
    n2.crash();
    world.wait_for_master(1);
    wait_until(10, || n1.log(), || n1.serves());
    world.judge();
}

#[test]
fn the_kernel_takes_the_address_away_when_agent_and_guard_are_frozen() {
    let Some(world) = World::ready(&plan(2)) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    // Nobody is left to end the service: this is about the address alone.
    n1.freeze_both();
    wait_until(15, || n1.addresses(), || !n1.has_vip());
    world.wait_for_master(2);
    assert!(n2.has_vip() && !n1.has_vip());
    n1.thaw();
    wait_until(15, || n1.log(), || !n1.serves());
    n1.wait_for_role("standby");
}

#[test]
fn what_an_agent_leaves_behind_is_ended_and_the_same_node_goes_on() {
    let Some(world) = World::ready(&plan(2)) else { return };
    let n1 = world.node(1);
    // The agent dies alone: its guard ends everything at once.
    n1.kill();
    wait_until(5, || n1.log(), || !n1.serves() && !n1.has_vip());
    // The same node knows that nothing is left, and need not wait for its own lease.
    n1.start();
    let took = wait_until(10, || world.logs(), || n1.role() == "master");
    assert!(took.as_secs_f64() < 2.5, "it waited for itself: {took:?}");
    // Without its guard it does not go on.
    n1.signal("KILL", &[n1.guard()]);
    assert!(!n1.wait_for_end(10).success());
    assert!(!n1.serves() && !n1.has_vip());
    world.wait_for_master(2);
    world.judge();
}

#[test]
fn a_service_is_restarted_and_moves_when_that_does_not_help() {
    let plan = Plan { more: "restart_limit = 1\n".into(), ..Plan::default() };
    let Some(world) = World::ready(&plan) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    world.wait_for_standbys(1, 1);
    let kill = || {
        let pids = std::process::Command::new("pgrep")
            .args(["-f", &format!("{}/service", world.path().display())])
            .output()
            .unwrap();
        let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
        n1.signal("KILL", &pids.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>());
    };
    std::thread::sleep(std::time::Duration::from_secs(1));
    kill();
    wait_until(10, || n1.log(), || n1.log().contains("service toy was restarted"));
    assert_eq!(n1.role(), "master");
    kill();
    let took = wait_until(10, || world.logs(), || n2.role() == "master");
    assert!(took.as_secs_f64() < 3.0, "the lease was given back: {took:?}");
    world.judge();
}

#[test]
fn what_survives_agent_and_guard_is_ended_by_the_unit_or_by_the_next_start() {
    let Some(world) = World::ready(&plan(1)) else { return };
    let n1 = world.node(1);
    wait_until(10, || n1.log(), || n1.serves() && n1.has_vip());
    n1.kill_both();
    assert!(n1.serves(), "nobody was there to end it");
    // What the unit's ExecStopPost does.
    let mut command = world.net.inside("n1", super::rig::lockstep());
    command
        .args(["agent", "demote", "--emergency", "--config"])
        .arg(n1.folder().join("agent.toml"));
    assert!(command.status().unwrap().success());
    assert!(!n1.serves() && !n1.has_vip());
    n1.start();
    world.wait_for_master(1);
    wait_until(10, || n1.log(), || n1.serves());
    n1.kill_both();
    assert!(n1.serves());
    n1.start();
    wait_until(10, || n1.log(), || n1.log().contains("stopping what an earlier run left behind"));
    // The node's row says `master` from the run before until the new one has written.
    wait_until(20, || format!("{:?}", world.terms()), || world.terms().len() == 3);
    world.judge();
}

/// Its processes shed whatever could be inherited: parent, group, environment. Their cgroup they keep.
#[test]
fn a_service_that_hides_everything_is_ended_by_its_cgroup() {
    let hides = "[[service]]\nname = \"hides\"\nstop_timeout = \"1s\"\ncommand = [\"/bin/sh\", \"-c\", \
                 \"env -i /usr/bin/setsid -f /usr/bin/setsid -f /bin/sleep 7117; exec sleep 7118\"]\n";
    let plan = Plan { more: hides.into(), cgroups: true, ..Plan::default() };
    let Some(world) = World::ready(&plan) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    let hidden = |n: usize| world.node(n).pids_of("/bin/sleep 7117");
    let comes_up = |n: usize| wait_until(10, || world.node(n).log(), || !hidden(n).is_empty());
    comes_up(1);
    // Stopped in good order.
    world.wait_for_standbys(1, 1);
    world.tool("switchover --to n2");
    assert_eq!(hidden(1), Vec::<u32>::new());
    comes_up(2);
    // Ended by the guard, whose agent has died.
    n2.kill();
    wait_until(5, || n2.log(), || hidden(2).is_empty());
    // Found by the next agent, where nobody was left.
    world.wait_for_master(1);
    comes_up(1);
    n1.kill_both();
    let former = hidden(1);
    assert!(!former.is_empty());
    n1.start();
    wait_until(10, || n1.log(), || hidden(1).iter().all(|pid| !former.contains(pid)));
    world.judge();
}

#[test]
fn a_service_that_has_nowhere_to_go_is_tried_again() {
    let plan = Plan { nodes: 1, more: "restart_limit = 0\n".into(), ..Plan::default() };
    let Some(world) = World::ready(&plan) else { return };
    let n1 = world.node(1);
    wait_until(10, || n1.log(), || n1.serves());
    let pattern = format!("{}/service", world.path().display());
    let pids = std::process::Command::new("pgrep").args(["-f", &pattern]).output().unwrap();
    let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
    n1.signal("KILL", &pids.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>());
    let held = || n1.status()["held"].as_str().unwrap_or_default().to_owned();
    wait_until(10, held, || held().contains("no other node is ready"));
    wait_until(10, || n1.log(), || n1.log().contains("service toy was restarted"));
    wait_until(10, held, || held().is_empty() && n1.serves());
    assert_eq!(n1.role(), "master");
    world.judge();
}

/// For how long nobody serves, planned and after a crash; `make takeover` prints it.
#[test]
#[ignore = "a measurement of some minutes: make takeover"]
fn takeover_times() {
    let rounds = std::env::var("LOCKSTEP_TAKEOVERS").map_or(30, |n| n.parse().unwrap());
    let report = |what: &str, mut gaps: Vec<f64>| {
        gaps.sort_by(f64::total_cmp);
        let at = |share: f64| gaps[((gaps.len() - 1) as f64 * share).round() as usize];
        let (n, most) = (gaps.len(), gaps[gaps.len() - 1]);
        println!("{what}: n {n}, median {:.2} s, p99 {:.2} s, max {most:.2} s", at(0.5), at(0.99));
    };
    let Some(world) = World::ready(&plan(2)) else { return };
    for round in 0..rounds {
        let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        world.wait_for_standbys(from, 1);
        world.tool(&format!("switchover --to n{to}"));
    }
    report("planned (ttl 3 s)", world.gaps());
    world.judge();
    let Some(world) = World::ready(&plan(2)) else { return };
    for round in 0..rounds {
        let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        world.wait_for_standbys(from, 1);
        world.node(from).crash();
        world.wait_for_master(to);
        world.node(from).start();
        world.node(from).wait_for_role("standby");
    }
    report("crash (ttl 3 s)", world.gaps());
    world.judge();
}

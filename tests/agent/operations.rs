//! What operators do.

use super::rig::{Plan, World, wait_until};

#[test]
fn a_switchover_moves_the_resource_within_seconds_and_back() {
    let Some(world) = World::ready(&Plan::default()) else { return };
    world.wait_for_standbys(1, 1);
    let said = world.tool("switchover --to n2");
    assert_eq!(said, "n2 is the master, in epoch 2\n");
    world.wait_for_standbys(2, 1);
    let said = world.tool("standby n2");
    assert_eq!(said, "n1 is the master, in epoch 3\n");
    let nobody = world.try_tool("switchover --to n1");
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("n1 has the resource already"));
    // An agent that ends gives back what it has: nobody waits for a lease.
    world.wait_for_standbys(1, 1);
    assert!(world.node(1).stop().success());
    let took = wait_until(10, || world.logs(), || world.node(2).role() == "master");
    assert!(took.as_secs_f64() < 2.5, "{took:?}");
    let status = world.tool("status");
    assert!(status.contains("n2") && status.contains("Monitoring") || status.contains("master"));
    assert_eq!(world.terms().len(), 4, "{:?}", world.terms());
    world.judge();
}

#[test]
fn maintenance_holds_everything_still_even_without_the_database() {
    let Some(world) = World::ready(&Plan::default()) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    world.tool("maintenance on");
    wait_until(5, || n1.log(), || n1.status()["paused"] == true);
    world.database.down();
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert!(n1.serves() && n1.role() == "master", "it goes on without a deadline");
    // An agent that is told to end does so without the database as well.
    assert!(n2.stop().success());
    world.database.up();
    n2.start();
    n2.wait_for_role("standby");
    let said = world.tool("maintenance off");
    assert_eq!(said, "maintenance has ended\n");
    assert_eq!((n1.role().as_str(), n2.role().as_str()), ("master", "standby"));
    // A holder that is gone cannot say so.
    world.tool("maintenance on");
    wait_until(5, || n1.log(), || n1.status()["paused"] == true);
    n1.crash();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert_eq!(n2.role(), "standby", "nobody takes it in maintenance");
    let refused = world.try_tool("maintenance off");
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("--confirm-stopped n1"), "{refused}");
    assert_eq!(n2.role(), "standby");
    world.tool("maintenance off --confirm-stopped n1");
    world.wait_for_master(2);
    world.judge();
}

#[test]
fn an_agent_that_is_restarted_in_maintenance_goes_on_with_what_runs() {
    let more = "[[service]]\nname = \"second\"\ncommand = [\"/bin/sleep\", \"7119\"]\n\
                [[vip]]\naddress = \"10.77.0.100/24\"\nprobe = \"50ms\"\n";
    let resource = "adopt = true\n".into();
    let Some(world) = World::ready(&Plan { resource, more: more.into(), ..Plan::default() }) else {
        return;
    };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    let second = || n1.pids_of("/bin/sleep 7119");
    let in_maintenance = || {
        world.tool("maintenance on");
        wait_until(5, || n1.log(), || n1.status()["paused"] == true);
    };
    in_maintenance();
    let former = (n1.service_pids(), second());
    assert!(n1.stop().success());
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(n1.has_vip() && n2.role() == "standby");
    n1.start();
    world.wait_for_master(1);
    assert_eq!((n1.service_pids(), second()), former, "nothing was started anew");
    assert_eq!(world.tool("maintenance off"), "maintenance has ended\n");
    assert_eq!((n1.role(), n1.status()["epoch"].as_i64()), ("master".into(), Some(1)));
    // Maintenance that is ended while no agent is there goes on until one has said what it knows.
    in_maintenance();
    assert!(n1.stop().success());
    let said = world.try_tool("maintenance off");
    assert!(String::from_utf8_lossy(&said.stderr).contains("n1 does not answer"));
    assert_eq!(n2.role(), "standby");
    n1.start();
    world.wait_for_master(1);
    wait_until(10, || n1.log(), || n1.status()["paused"] == false);
    assert_eq!((n1.service_pids(), second()), former);
    // It looks after what it has not started.
    n1.signal("KILL", &second());
    wait_until(10, || n1.log(), || n1.log().contains("service second was restarted"));
    // What was left is ended if the row is another's when the agent returns.
    in_maintenance();
    assert!(n1.stop().success());
    n1.signal("KILL", &n1.service_pids());
    assert!(!second().is_empty());
    // Else the network would say that it is not stopped.
    let mut ip = world.net.inside("n1", "ip");
    assert!(ip.args(["addr", "del", "10.77.0.100/24", "dev", "eth0"]).status().unwrap().success());
    world.tool("maintenance off --confirm-stopped n1");
    world.wait_for_master(2);
    n1.start();
    n1.wait_for_role("standby");
    wait_until(5, || n1.log(), || second().is_empty());
    assert_eq!(world.terms(), [(1, "n1".to_owned()), (2, "n2".to_owned())]);
    // Without maintenance all is stopped, as ever.
    world.wait_for_standbys(2, 1);
    assert!(n2.stop().success());
    assert!(!n2.serves());
    world.judge();
}

#[test]
fn a_node_in_maintenance_hands_over_first_and_takes_nothing() {
    let Some(world) = World::ready(&Plan::default()) else { return };
    world.wait_for_standbys(1, 1);
    world.tool("maintenance on --node n1");
    world.wait_for_master(2);
    world.node(2).crash();
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(world.node(1).role(), "standby");
    world.tool("maintenance off --node n1");
    world.wait_for_master(1);
    world.judge();
}

#[test]
fn a_failed_check_moves_the_resource_and_damping_keeps_it_from_going_round() {
    let check = "[[check]]\nname = \"fit\"\nkind = \"exec\"\nwhen = \"master\"\n\
                 command = \"test ! -e state/unfit || exit 2\"\naction = \"failover\"\n\
                 interval = \"200ms\"\nfail_after = 2\n\
                 [[alert]]\nkind = \"exec\"\ncommand = \"echo $LOCKSTEP_EVENT $LOCKSTEP_NODE >> alerts\"\n";
    let plan = Plan { more: check.into(), ..Plan::default() };
    let Some(world) = World::build(&plan) else { return };
    // Programs run where the agent does: each node in its own folder.
    for node in &world.nodes {
        node.start_in_folder();
    }
    world.wait_for_master(1);
    world.wait_for_standbys(1, 1);
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    std::thread::sleep(std::time::Duration::from_secs(1));
    std::fs::write(n1.folder().join("state/unfit"), "").unwrap();
    let took = wait_until(10, || world.logs(), || n2.role() == "master");
    assert!(took.as_secs_f64() < 3.5, "{took:?}");
    let alerts = || std::fs::read_to_string(n1.folder().join("alerts")).unwrap_or_default();
    wait_until(5, alerts, || {
        alerts().contains("check_failed n1") && alerts().contains("stopped n1")
    });
    world.judge();
}

#[test]
fn a_lease_that_went_back_starts_nothing_until_it_is_accepted() {
    let Some(world) = World::ready(&Plan::default()) else { return };
    world.wait_for_standbys(1, 1);
    world.tool("switchover");
    let n1 = world.node(1);
    wait_until(10, || n1.log(), || n1.status()["epoch"] == 2);
    for node in &world.nodes {
        assert!(node.stop().success());
    }
    // A backup from before the switchover.
    world
        .database
        .ask("update lockstep_lease set epoch = 1, seq = 5, holder = '', incarnation = ''");
    for node in &world.nodes {
        node.start();
    }
    // n2 has acted, and n1 has seen it.
    for node in &world.nodes {
        node.wait_for_role("regressed");
        assert!(node.log().contains("accept-restore"));
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(world.nodes.iter().all(|node| !node.serves()));
    world.tool("accept-restore");
    let serves = |world: &World| world.nodes.iter().any(super::rig::Node::serves);
    wait_until(15, || world.logs(), || serves(&world));
}

#[test]
fn a_name_belongs_to_one_machine() {
    let Some(world) = World::ready(&Plan::default()) else { return };
    let said = world.node(2).refused("n2");
    assert!(said.contains("another agent runs with state_dir"), "{said}");
    // The same name from another folder is another machine, as far as anyone can tell.
    let mut command = world.net.inside("n1", super::rig::lockstep());
    let config = world.path().join("agent.toml");
    let text = std::fs::read_to_string(&config).unwrap().replace("127.0.0.1:8008", "off");
    let other = world.path().join("other.toml");
    std::fs::write(&other, text).unwrap();
    command.args(["agent", "run", "--node", "n2", "--config"]).arg(&other);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("another machine"), "{said}");
    let unknown = world.node(1).refused("n9");
    assert!(unknown.contains("no [[node]] is called `n9`"), "{unknown}");
    world.judge();
}

#[test]
fn the_watchdog_is_fed_while_something_runs_and_put_to_sleep_after() {
    let plan = Plan { agent: "watchdog_device = \"dog\"".into(), ..Plan::default() };
    let Some(world) = World::build(&plan) else { return };
    let config = world.path().join("agent.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("watchdog = \"off\"", "watchdog = \"required\"")).unwrap();
    let n1 = world.node(1);
    assert!(n1.refused("n1").contains("modprobe softdog"), "without the device it does not run");
    let dog = n1.folder().join("dog");
    std::fs::write(&dog, "").unwrap();
    n1.start();
    world.wait_for_master(1);
    let food = || std::fs::read_to_string(&dog).unwrap();
    wait_until(5, food, || food().contains(".."));
    assert!(n1.stop().success());
    assert!(food().ends_with('V'), "{}", food());
    world.judge();
}

#[test]
fn resources_have_homes_of_their_own_and_one_machine_takes_both() {
    let trace = "echo $LOCKSTEP_NODE $LOCKSTEP_EPOCH";
    let more = format!(
        "[[resource]]\nname = \"mail\"\nhome = \"n2\"\nfailback = \"1s\"\nmin_role_time = \"1s\"\n\
         flap_limit = 99\non_promote = \"{trace} promote >> trace\"\non_demote = \"{trace} demote >> trace\"\n\
         [[service]]\nresource = \"mail\"\nname = \"first\"\nstart = \"{trace} first up >> trace\"\n\
         stop = \"{trace} first down >> trace; test ! -e busy\"\n\
         [[service]]\nresource = \"mail\"\nname = \"second\"\nstart = \"{trace} second up >> trace\"\n\
         stop = \"{trace} second down >> trace\"\n"
    );
    // The service of the first resource is written before the second resource is: it needs its name.
    let more = format!("resource = \"app\"\n{more}");
    let Some(world) = World::build(&Plan { more, ..Plan::default() }) else { return };
    for node in &world.nodes {
        node.start_in_folder();
    }
    let mail = |n: usize| {
        let (_, body) = world.node(n).page("/status");
        let all: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        all[1]["role"].as_str().unwrap_or("gone").to_owned()
    };
    world.wait_for_master(1);
    wait_until(15, || world.logs(), || mail(2) == "master");
    assert_eq!(
        (world.node(1).page("/primary/mail").0, world.node(2).page("/primary/mail").0),
        (503, 200)
    );
    world.node(2).crash();
    wait_until(15, || world.logs(), || mail(1) == "master");
    assert_eq!(world.node(1).role(), "master", "one machine has both");
    // Home again, by itself; but what cannot be stopped is given to nobody.
    std::fs::write(world.node(1).folder().join("busy"), "").unwrap();
    world.node(2).start_in_folder();
    wait_until(20, || world.logs(), || mail(1) == "stopping");
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!((mail(1).as_str(), mail(2).as_str()), ("stopping", "standby"));
    std::fs::remove_file(world.node(1).folder().join("busy")).unwrap();
    wait_until(20, || world.logs(), || mail(2) == "master");
    let trace = std::fs::read_to_string(world.node(1).folder().join("trace")).unwrap();
    let steps: Vec<&str> = trace.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect();
    let begin = ["first up", "second up", "promote", "demote", "second down", "first down"];
    assert_eq!(steps[..6], begin, "{trace}");
    assert!(steps[6..].iter().all(|step| *step == "first down"), "{trace}");
    world.judge();
}

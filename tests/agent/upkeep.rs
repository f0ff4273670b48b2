//! What it costs, what an upgrade may change, and what helps people who look for a mistake.

use std::process::Command;
use std::time::Duration;

use super::rig::{Kind, Plan, World, lockstep, wait_until};

#[test]
fn watching_costs_next_to_nothing() {
    // The numbers of the sample: this is what everybody gets who changes nothing.
    let usual = "ttl = \"10s\"\nrenew = \"2s\"\nwatch = \"1s\"\nstop_budget = \"3s\"";
    let Some(world) = World::build(&Plan { times: usual, ..Plan::default() }) else { return };
    world.tool("init");
    world.nodes.iter().for_each(super::rig::Node::start);
    world.wait_for_master(1);
    world.wait_for_standbys(1, 1);
    let spent = || -> Duration { world.nodes.iter().map(super::rig::Node::cpu).sum() };
    let statements = || -> u64 {
        let asked = "select sum(xact_commit) from pg_stat_database where datname = 'postgres'";
        world.database.ask(asked).parse().unwrap()
    };
    // What the toy service writes is none of it.
    world.node(1).signal("STOP", &world.node(1).service_pids());
    std::thread::sleep(Duration::from_secs(2));
    let (cpu, count) = (spent(), statements());
    std::thread::sleep(Duration::from_secs(12));
    let (cpu, count) = (spent() - cpu, statements() - count);
    // Agents and guards of two nodes: one per cent of one processor for each node.
    assert!(cpu < Duration::from_millis(240), "{cpu:?} of processor time in 12 s");
    // A look each second, and each two seconds a renewal or none, a sign of life and a look at the others;
    // and what the judge asks.
    assert!(count < 12 * (2 * 4 + 3), "{count} statements in 12 s");
    world.node(1).signal("CONT", &world.node(1).service_pids());
    world.judge();
}

#[test]
fn orders_of_several_operators_at_once_are_all_given() {
    for kind in [Kind::Postgres, Kind::MariaDb] {
        let Some(world) = World::build(&Plan { kind, ..Plan::default() }) else { return };
        world.tool("init");
        world.node(2).start();
        let rows = || world.database.ask("select count(*) from lockstep_node where node = 'n2'");
        wait_until(20, || world.logs(), || rows() == "1");
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| assert_eq!(world.tool("clear --node n2"), "told n2\n"));
            }
        });
        let cleared = world.database.ask("select cleared from lockstep_node where node = 'n2'");
        assert_eq!(cleared, "12", "{kind:?}");
        // What is so already is no reason to complain; what is not there is.
        for _ in 0..2 {
            assert!(world.tool("maintenance on --node n2").contains("n2 is out"));
        }
        for words in ["clear --node n9", "maintenance off --node n9"] {
            let said = world.try_tool(words);
            assert!(String::from_utf8_lossy(&said.stderr).contains("no node `n9`"), "{words}");
        }
    }
}

#[test]
fn tables_and_nodes_of_a_newer_version_do_no_harm() {
    let Some(world) = World::build(&Plan::default()) else { return };
    world.tool("init");
    // A newer one has more columns, words that this one does not know, and a node of its own.
    for table in ["lockstep_lease", "lockstep_node", "lockstep_event"] {
        world.database.ask(&format!("alter table {table} add more text not null default 'x'"));
    }
    let newer = "insert into lockstep_node (resource, node, incarnation, machine, seq, role, mode, priority, \
                 healthy, maintenance, cleared, accepted, seen_epoch, addr, version, message) values \
                 ('app', 'n9', 'i', 'm', 1, 'dancing', 'sometimes', 500, 1, 0, 0, 0, 0, '', '99.0', '')";
    world.database.ask(newer);
    let beat = || world.database.ask("update lockstep_node set seq = seq + 1 where node = 'n9'");
    world.nodes.iter().for_each(super::rig::Node::start);
    wait_until(
        20,
        || world.logs(),
        || {
            beat();
            world.node(1).role() == "master"
        },
    );
    world.node(2).wait_for_role("standby");
    world.wait_for_standbys(1, 1);
    world.tool("switchover");
    world.node(2).crash();
    world.wait_for_master(1);
    assert!(world.tool("status").contains("99.0"));
    world.judge();
}

#[test]
fn a_bundle_has_what_helps_and_no_secret() {
    let alert = "[[alert]]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\nattempts = 1\n\
                 secret = \"opensesame\"\n";
    let Some(world) = World::ready(&Plan { more: alert.into(), ..Plan::default() }) else { return };
    let bundle = world.path().join("bundle.txt");
    let mut command = world.net.inside("n1", lockstep());
    command.args(["agent", "bundle", "--node", "n1", "--config"]);
    command.arg(world.path().join("agent.toml")).arg("--out").arg(&bundle);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(&bundle).unwrap();
    assert!(!text.contains("opensesame"), "{text}");
    for what in
        ["secret = \"***\"", "\"holder\":\"n1\"", "the services are up", "lockstep_agent_role"]
    {
        assert!(text.contains(what), "{what}: {text}");
    }
    assert!(!command.output().unwrap().status.success(), "it overwrites what is there");
    // More is logged from now on, without a restart.
    let config = world.path().join("agent.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let more = before.replace("info,lockstep::agent=debug", "trace");
    std::fs::write(&config, more).unwrap();
    world.node(1).hang_up();
    wait_until(5, || world.logs(), || world.node(1).log().contains("log.level was read again"));
    wait_until(5, || world.logs(), || world.node(1).log().contains("TRACE"));
    world.judge();
}

#[test]
fn an_agent_that_cannot_remember_serves_nothing_and_stands_in_nobodys_way() {
    let Some(world) = World::build(&Plan::default()) else { return };
    world.tool("init");
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    let state = n1.folder().join("state");
    std::fs::create_dir(&state).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=16k,mode=0755", "tmpfs"]).arg(&state);
    assert!(mount.status().unwrap().success());
    let full = state.join("filler");
    let _ = std::fs::write(&full, vec![0; 1 << 16]);
    n1.start();
    assert!(!n1.wait_for_end(20).success());
    assert!(n1.log().contains("No space left"), "{}", n1.log());
    n2.start();
    world.wait_for_master(2);
    // Its service manager starts it again and again: it does not take the lease from n2.
    for _ in 0..3 {
        n1.start();
        assert!(!n1.wait_for_end(20).success());
    }
    assert!(n2.role() == "master" && n2.serves() && !n1.serves());
    std::fs::remove_file(&full).unwrap();
    n1.start();
    n1.wait_for_role("standby");
    world.wait_for_standbys(2, 1);
    assert!(n1.stop().success());
    let mut umount = Command::new("umount");
    assert!(umount.arg(&state).status().unwrap().success());
    world.judge();
}

#[test]
fn by_hand_only_it_moves_when_somebody_says_so_and_knows() {
    let plan = Plan { resource: "auto_failover = false\n".into(), ..Plan::default() };
    let Some(world) = World::build(&plan) else { return };
    world.tool("init");
    world.nodes.iter().for_each(super::rig::Node::start);
    world.nodes.iter().for_each(|node| node.wait_for_role("standby"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(world.nodes.iter().all(|node| !node.serves()), "nobody was told to begin");
    assert_eq!(world.tool("force-master n1"), "n1 is the master, in epoch 1\n");
    world.wait_for_standbys(1, 1);
    world.node(1).crash();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(world.node(2).role(), "standby");
    let refused = world.try_tool("force-master n2");
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("--confirm-stopped n1"), "{refused}");
    world.tool("force-master n2 --confirm-stopped n1");
    world.wait_for_master(2);
    world.judge();
}

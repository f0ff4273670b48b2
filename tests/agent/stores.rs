//! Where the election may be held.

use super::rig::{Kind, Plan, World, wait_until};

#[test]
fn on_mariadb_as_on_postgresql() {
    let checks = "[[check]]\nname = \"right\"\nkind = \"sql\"\nquery = \"SELECT 1 + 1\"\nexpect = \"2\"\n\
                  interval = \"200ms\"\n[[check]]\nname = \"wrong\"\nkind = \"sql\"\ninterval = \"200ms\"\n\
                  url = \"mysql://nobody:x@10.77.0.1:5432/postgres\"\naction = \"log\"\n";
    let plan = Plan { kind: Kind::MariaDb, more: checks.into(), ..Plan::default() };
    let Some(world) = World::ready(&plan) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    world.wait_for_standbys(1, 1);
    world.tool("switchover");
    n2.crash();
    world.wait_for_master(1);
    assert_eq!(world.database.ask("select epoch, holder from postgres.lockstep_lease"), "3\tn1");
    assert!(n1.serves());
    let states = || {
        let status = n1.status();
        [&status["checks"]["right"]["state"], &status["checks"]["wrong"]["state"]].map(Clone::clone)
    };
    wait_until(10, || format!("{:?}", n1.status()), || states() == ["pass", "fail"]);
    let mut command = world.net.inside("n1", super::rig::lockstep());
    command.args(["agent", "checks", "--config"]).arg(world.path().join("agent.toml"));
    let table = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(table.contains("right") && table.contains("pass") && table.contains("fail"), "{table}");
    assert!(world.tool("events").contains("expired") || world.tool("events").contains("taken"));
    world.judge();
}

#[test]
fn the_next_address_is_tried_when_one_does_not_answer() {
    let urls = [
        "postgresql://postgres@10.77.0.250:5432/postgres",
        "postgresql://postgres@10.77.0.1:5432/postgres",
    ];
    let plan = Plan {
        urls: Some(urls.map(str::to_owned).to_vec()),
        agent: "connect_timeout = \"300ms\"".into(),
        ..Plan::default()
    };
    let Some(world) = World::build(&plan) else { return };
    for node in &world.nodes {
        node.start();
    }
    let a_master = || world.nodes.iter().any(|node| node.role() == "master");
    wait_until(20, || world.logs(), a_master);
    // Whichever is the master: each agent finds it in its own time.
    let found = || world.node(1).status()["database"] == "10.77.0.1:5432/postgres";
    wait_until(10, || world.logs(), found);
    // A database that is gone for less than a lease moves nothing.
    world.database.down();
    world.database.up();
    std::thread::sleep(std::time::Duration::from_secs(4));
    wait_until(
        10,
        || world.logs(),
        || world.node(1).role() == "master" || world.node(2).role() == "master",
    );
    world.judge();
}

#[test]
fn a_read_only_node_serves_only_while_no_other_can() {
    let sections = "[[node]]\nname = \"n1\"\nrole = \"master\"\n[[node]]\nname = \"n2\"\nmode = \"read-only\"\n\
                    [[node]]\nname = \"n3\"\nrole = \"observer\"\n";
    let plan = Plan { nodes: 3, node_sections: Some(sections.into()), ..Plan::default() };
    let Some(world) = World::ready(&plan) else { return };
    let [n1, n2, n3] = [1, 2, 3].map(|n| world.node(n));
    n1.crash();
    world.wait_for_master(2);
    assert_eq!((n2.page("/primary").0, n2.page("/read-only").0), (503, 200));
    assert_eq!(n2.status()["grade"], "ro");
    let lonely = "no other node is ready to take over";
    wait_until(15, || n2.log(), || n2.log().contains(lonely));
    // The full one takes it back as soon as it is there.
    n1.start();
    world.wait_for_master(1);
    assert_eq!(n1.page("/primary").0, 200);
    n1.crash();
    n2.crash();
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(n3.role(), "standby", "an observer never takes");
    world.judge();
}

#[test]
fn a_dead_database_behind_the_proxy_moves_nothing() {
    let plan = Plan { through_proxy: true, ..Plan::default() };
    let Some(world) = World::ready(&plan) else { return };
    let n1 = world.node(1);
    world.wait_for_standbys(1, 1);
    world.tool("switchover");
    world.wait_for_standbys(2, 1);
    world.tool("switchover");
    world.database.down();
    let writes = || world.second().ask("select count(*) from writes").parse::<u64>().unwrap();
    let before = writes();
    std::thread::sleep(std::time::Duration::from_secs(6));
    assert_eq!((n1.role().as_str(), world.node(2).role().as_str()), ("master", "standby"));
    assert!(n1.serves() && writes() > before + 3, "the service writes on: {before} {}", writes());
    assert_eq!(world.second().ask("select epoch, holder from lockstep_lease"), "3|n1");
    world.tool("switchover --to n2");
    // What was written was written in the order of the terms.
    let back = "select count(*) from writes a join writes b on a.id < b.id and a.epoch > b.epoch";
    assert_eq!(world.second().ask(back), "0");
    world.judge();
}

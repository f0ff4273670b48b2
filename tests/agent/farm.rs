//! What runs on several nodes at once: an application on all of them, addresses spread over them.

use super::rig::{Node, Plan, World, wait_until};

/// How a resource stands on a node.
fn role(node: &Node, resource: &str) -> String {
    let (_, body) = node.page("/status");
    let all: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    let found = all.as_array().into_iter().flatten().find(|view| view["resource"] == resource);
    found.map_or("gone".into(), |view| view["role"].as_str().unwrap_or("gone").to_owned())
}

#[test]
fn an_application_on_all_nodes_runs_wherever_it_is_well() {
    let more = "resource = \"app\"\n[[resource]]\nname = \"web\"\nplacement = \"all\"\nstart_retry = \"1s\"\n\
                [[service]]\nresource = \"web\"\nname = \"web\"\ncommand = \"exec sleep 1000\"\n\
                [[check]]\nresource = \"web\"\nname = \"fit\"\nkind = \"exec\"\ninterval = \"200ms\"\n\
                command = \"test ! -e state/unfit || exit 2\"\naction = \"failover\"\n";
    let Some(world) = World::build(&Plan { nodes: 3, more: more.into(), ..Plan::default() }) else {
        return;
    };
    world.nodes.iter().for_each(Node::start_in_folder);
    let web = |n: usize| role(world.node(n), &format!("web@n{n}"));
    let everywhere = || (1..=3).all(|n| web(n) == "master");
    wait_until(30, || world.logs(), everywhere);
    assert_eq!(world.node(2).page("/primary/web").0, 200);
    // One that is not well stops, and the others do not mind.
    let unfit = world.node(2).folder().join("state/unfit");
    std::fs::write(&unfit, "").unwrap();
    wait_until(15, || world.logs(), || world.node(2).page("/primary/web").0 == 503);
    assert_eq!((web(1).as_str(), web(3).as_str()), ("master", "master"));
    std::fs::remove_file(&unfit).unwrap();
    wait_until(15, || world.logs(), everywhere);
    // One that is taken out stops, and returns.
    world.tool("maintenance on --node n3 --resource web@n3");
    wait_until(15, || world.logs(), || web(3) == "standby");
    world.tool("maintenance off --node n3 --resource web@n3");
    wait_until(15, || world.logs(), everywhere);
    world.node(1).crash();
    assert!((2..=3).all(|n| web(n) == "master"));
    world.judge();
}

#[test]
fn addresses_are_spread_over_the_nodes_and_move_with_them() {
    let address = |n: usize| format!("10.77.0.{}", 150 + n);
    let spread: String = (1..=3)
        .map(|n| {
            format!(
                "[[resource]]\nname = \"a{n}\"\nhome = \"n{n}\"\nfailback = \"1s\"\n\
                 min_role_time = \"1s\"\nflap_limit = 99\n\
                 [[vip]]\nresource = \"a{n}\"\naddress = \"{}/24\"\nprobe = \"50ms\"\n\
                 [[check]]\nresource = \"a{n}\"\nname = \"only\"\nkind = \"vip\"\ninterval = \"500ms\"\n",
                address(n)
            )
        })
        .collect();
    let more = format!("resource = \"app\"\n{spread}");
    let Some(world) = World::build(&Plan { nodes: 3, more, ..Plan::default() }) else { return };
    world.nodes.iter().for_each(Node::start);
    let holders = |n: usize| {
        let has = |node: &&Node| node.addresses().contains(&format!("inet {}/", address(n)));
        world.nodes.iter().filter(has).map(|node| node.name.clone()).collect::<Vec<_>>()
    };
    let at_home = || (1..=3).all(|n| holders(n) == [format!("n{n}")]);
    wait_until(30, || world.logs(), at_home);
    // All three answer while one of the nodes is dead, and only its own address has moved.
    world.node(2).crash();
    let elsewhere = || holders(2).iter().any(|name| name != "n2");
    // The dead node's kernel lets go of the address by itself.
    wait_until(30, || world.logs(), || elsewhere() && holders(2).len() == 1);
    assert_eq!((holders(1), holders(3)), (vec!["n1".to_owned()], vec!["n3".to_owned()]));
    // It returns, and one address goes home.
    world.node(2).start();
    wait_until(30, || world.logs(), at_home);
    // Somebody else answers for one: the check says so.
    let hub = world.net.space("hub");
    let ip = |what: &str| {
        let words = format!("-n {hub} addr {what} {}/24 dev br0", address(3));
        let done = std::process::Command::new("ip").args(words.split_whitespace()).status();
        assert!(done.unwrap().success(), "{words}");
    };
    ip("add");
    let said = || {
        let (_, body) = world.node(3).page("/status");
        let all: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        all[3]["checks"]["only"].to_string()
    };
    wait_until(15, said, || said().contains("answers for 10.77.0.153 too"));
    ip("del");
    world.judge();
}

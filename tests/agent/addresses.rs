//! The virtual address, in both families.

use super::rig::{Plan, VIP, World, wait_until};

const BOTH: &str = "[[vip]]\naddress = \"10.77.0.100/24\"\nprobe = \"50ms\"\n\
                    [[vip]]\naddress = \"fd77::100/64\"\ninterface = \"eth0\"\nprobe = \"50ms\"\n";

#[test]
fn neighbours_learn_at_once_where_an_address_has_gone() {
    let plan = Plan { more: BOTH.into(), ..Plan::default() };
    let Some(world) = World::ready(&plan) else { return };
    let [n1, n2] = [1, 2].map(|n| world.node(n));
    assert!(n1.has_vip() && n1.has_vip6(), "{}", n1.addresses());
    assert!(n1.addresses().contains("valid_lft"), "{}", n1.addresses());
    // The kernel's own link-local address may be tentative still, ours is ready at once.
    let addresses = n1.addresses();
    let ours = addresses.lines().find(|line| line.contains("fd77::100")).unwrap();
    assert!(!ours.contains("tentative"), "{addresses}");
    // Somebody on the network speaks with it, so that there is something to forget.
    let neighbour = |vip: &str| {
        let mut ip = std::process::Command::new("ip");
        ip.args(["-n", &world.net.space("hub"), "neigh", "show", vip]);
        String::from_utf8_lossy(&ip.output().unwrap().stdout).into_owned()
    };
    let mac = |node: &super::rig::Node| {
        let text = node.addresses();
        let at = text.find("eth0").unwrap();
        let rest = &text[at..];
        let at = rest.find("link/ether ").unwrap() + "link/ether ".len();
        rest[at..at + 17].to_owned()
    };
    for vip in [VIP, "fd77::100"] {
        // A connection that is refused is spoken enough.
        let mut curl = world.net.inside("hub", "curl");
        let url = if vip.contains(':') {
            format!("http://[{vip}]:9/")
        } else {
            format!("http://{vip}:9/")
        };
        let _ = curl.args(["-s", "-m", "2", &url]).status();
        assert!(neighbour(vip).contains(&mac(n1)), "{}", neighbour(vip));
    }
    world.wait_for_standbys(1, 1);
    world.tool("switchover");
    assert!(n2.has_vip() && n2.has_vip6() && !n1.has_vip() && !n1.has_vip6());
    for vip in [VIP, "fd77::100"] {
        wait_until(5, || neighbour(vip), || neighbour(vip).contains(&mac(n2)));
    }
    // Somebody takes it away by hand: it is put back.
    let mut ip = world.net.inside("n2", "ip");
    assert!(ip.args(["addr", "del", "10.77.0.100/24", "dev", "eth0"]).status().unwrap().success());
    wait_until(10, || n2.addresses(), || n2.has_vip());
    world.judge();
}

#[test]
fn an_address_that_somebody_else_has_is_not_taken() {
    let plan = Plan { more: BOTH.into(), ..Plan::default() };
    let Some(world) = World::build(&plan) else { return };
    let hub = world.net.space("hub");
    let ip = |words: &str| {
        let words = format!("-n {hub} {words}");
        let done = std::process::Command::new("ip").args(words.split_whitespace()).status();
        assert!(done.unwrap().success(), "{words}");
    };
    ip("addr add fd77::100/64 dev br0 nodad");
    let n1 = world.node(1);
    n1.start();
    let refused = "fd77::100 is in use by";
    wait_until(15, || n1.log(), || n1.log().contains(refused));
    assert!(!n1.has_vip() && !n1.has_vip6() && !n1.serves());
    ip("addr del fd77::100/64 dev br0");
    ip("addr add 10.77.0.100/24 dev br0");
    wait_until(15, || n1.log(), || n1.log().contains("10.77.0.100 is in use by"));
    ip("addr del 10.77.0.100/24 dev br0");
    world.wait_for_master(1);
    assert!(n1.has_vip() && n1.has_vip6() && n1.serves());
    world.judge();
}

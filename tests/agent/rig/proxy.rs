//! Two databases and `lockstep proxy` in front of them, in the hub.

use std::path::Path;
use std::process::Child;

use super::{Database, lockstep, net, run, wait_until};

pub(super) const URL: &str = "postgresql://app@10.77.0.1:6432/postgres";
pub(super) const CLIENT: &str = "psql -q -h 10.77.0.1 -p 6432 -U app -d postgres";

pub(super) struct Proxy {
    child: Child,
    pub(super) second: Database,
}

impl Proxy {
    pub(super) fn start(net: &net::Net, first: &Database, world: &Path) -> Self {
        let second = Database::second(net, world);
        let config = world.join("proxy.toml");
        let text = format!(
            "database = \"postgres\"\nlisten = \"10.77.0.1:6432\"\n\
             admin = {{ user = \"postgres\" }}\nuser = [{{ name = \"app\", auth = \"trust\" }}]\n\
             backend = [\"postgresql://10.77.0.1:5432\", \"postgresql://10.77.0.2:5432\"]\n\
             http = \"off\"\n[cluster]\nstate_dir = \"{}\"\n[timeouts]\ndead_after = \"1s\"\n\
             probe_interval = \"200ms\"\nprobe_timeout = \"500ms\"\nfollower_lock = \"500ms\"\n",
            world.join("proxy-state").display()
        );
        std::fs::write(&config, text).unwrap();
        std::fs::create_dir_all(world.join("proxy-state")).unwrap();
        let _ = first;
        run(net.inside("hub", lockstep()).args(["init", "--config"]).arg(&config));
        let log = std::fs::File::create(world.join("proxy.log")).unwrap();
        let mut command = net.inside("hub", lockstep());
        let child = command.args(["proxy", "--config"]).arg(&config).stderr(log).spawn().unwrap();
        let log = || std::fs::read_to_string(world.join("proxy.log")).unwrap_or_default();
        wait_until(20, log, || {
            let mut psql = net.inside("hub", "psql");
            psql.args([
                "-h",
                "10.77.0.1",
                "-p",
                "6432",
                "-U",
                "app",
                "-d",
                "postgres",
                "-c",
                "select 1",
            ]);
            psql.output().unwrap().status.success()
        });
        Self { child, second }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

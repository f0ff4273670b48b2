//! Drivers and frameworks as applications use them: scripts in tests/drivers, each with its own
//! assertions.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::rig::cluster::{Cluster, spoken};
use crate::rig::process::{As, command, output};
use crate::rig::{run_within, secs, step};

/// A Python with the drivers in it: `LOCKSTEP_PYTHON`, or a venv that is made once and kept.
fn python() -> &'static PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        if let Some(path) = std::env::var_os("LOCKSTEP_PYTHON") {
            return path.into();
        }
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let venv = root.join("target/venv");
        let wanted = root.join("tests/drivers/requirements.txt");
        let python = venv.join("bin/python");
        // The list of what was installed is written last: a venv without it was interrupted.
        let installed = venv.join("installed.txt");
        let list = std::fs::read_to_string(&wanted).expect("tests/drivers/requirements.txt");
        if std::fs::read_to_string(&installed).is_ok_and(|have| have == list) {
            return python;
        }
        step("making target/venv with the Python drivers");
        let found = Command::new("python3").arg("--version").output();
        assert!(
            found.is_ok_and(|o| o.status.success()),
            "the driver tests need python3 (with venv): install it, or point LOCKSTEP_PYTHON at an interpreter \
             that has what tests/drivers/requirements.txt lists"
        );
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&venv);
        let done = make.output().expect("python3 runs");
        assert!(done.status.success(), "python3 -m venv failed (is python3-venv installed?): {}", spoken(&done));
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(&wanted);
        let done = pip.output().expect("pip runs");
        assert!(done.status.success(), "pip cannot install the drivers: {}", spoken(&done));
        std::fs::write(&installed, list).expect("a note of what is installed");
        python
    })
}

/// Runs one script on a cluster of its own and compares the servers afterwards.
fn script(name: &str) {
    let python = python();
    run_within(secs(180), async {
        let cluster = Cluster::start(3).await;
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(name);
        let mut script = command(As::Myself, python);
        script
            .arg(&path)
            .arg("postgres")
            .env("DATABASE_URL", cluster.url())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        script.env("PGHOST", "127.0.0.1").env("PGPORT", cluster.port.to_string());
        script.env("PGUSER", "app").env("PGPASSWORD", "app").env("PGDATABASE", "app");
        let output = output(name, script, secs(150));
        assert!(output.status.success(), "{name}:\n{}", spoken(&output));
        assert!(
            spoken(&output).trim_end().ends_with("done"),
            "{name} ended early:\n{}",
            spoken(&output)
        );
        cluster.assert_all_equal().await;
    });
}

#[test]
fn psycopg() {
    script("psycopg_client.py");
}

#[test]
fn asyncpg() {
    script("asyncpg_client.py");
}

#[test]
fn sqlalchemy_with_alembic_migrations() {
    script("sqlalchemy_client.py");
}

#[test]
fn django_migrations_and_orm() {
    script("django_client.py");
}

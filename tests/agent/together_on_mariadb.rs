//! Machines that have everything, with MariaDB servers: what befalls them, and the judge, are those of
//! [`super::together`].

use super::rig::{Kind, Want};
use super::together;

const MARIADB: Want = Want { kind: Kind::MariaDb, three: false, disk: None, ahead: 0, wall: false };

#[test]
fn a_machine_loses_power_and_returns() {
    together::power_is_lost(&MARIADB);
}

#[test]
fn cables_are_pulled_out() {
    together::cables_are_cut(&MARIADB);
}

#[test]
fn each_process_is_killed_in_turn() {
    together::processes_are_killed(&MARIADB);
}

#[test]
fn each_process_freezes_and_wakes_up_late() {
    together::processes_freeze(&MARIADB);
}

#[test]
fn a_whole_machine_freezes_and_wakes_up_late() {
    together::a_machine_freezes(&MARIADB);
}

#[test]
fn a_frozen_masters_open_transaction_has_ended_before_the_next_one_writes() {
    together::an_open_transaction_freezes(&MARIADB);
}

#[test]
fn a_disk_is_full() {
    together::disks_are_full(&Want { disk: Some("192m"), ..MARIADB });
}

#[test]
fn clocks_on_the_wall_jump() {
    together::clocks_jump(&Want { wall: true, ahead: 20_000_000, ..MARIADB });
}

#[test]
fn with_three_databases_two_machines_die_one_after_the_other() {
    together::two_of_three_die(&Want { three: true, ahead: 5_000_000, ..MARIADB });
}

//! Identity from end to end: the real server as a process, enrolment by its own command line, the agent as a process and, where its clock is to
//! be wrong, in this one; mutual TLS 1.3 throughout.
//!
//! Invariant: every case asks the server's API what became of the device, and has a deadline. Not here: the rules alone (`pki`,
//! `enroll`, `trusted_time` test those).
//!
//! Seen red: no question for the time (`Secured::question` answering `None`); a broker that asks its list for no serial number; no bridges in the
//! server's chain; a token that begins with a hyphen; no renewal when the broker refuses the certificate.

mod bed;

use std::{fs, path::Path, time::Duration};

use wayside_agent::{agent::Agent, clock::Clock, config::Config};
use wayside_common::time::Wall;
use wayside_tests::demo::{
    fleet::wall_now,
    wait::{Look, wait_for},
};

use bed::Bed;

const DAY: i64 = 24 * 3_600_000;
const IN_2099: Wall = Wall(4_071_168_000_000);

#[test]
fn a_device_enrols_with_one_line_renews_by_itself_and_is_out_when_it_is_revoked() {
    let mut bed = Bed::start("12s");
    let line = bed.add("imu-1");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words.len(), &words[..3], words[4]), (6, &["sudo", "wayside-agent", "enroll"][..], "--token"), "{line}");
    assert!(words[3].starts_with("https://127.0.0.1:"), "{line}");
    let config = bed.config("imu-1");
    let said = bed.agent(&[words[2], words[3], words[4], words[5], "--config", &config]).unwrap();
    assert!(said.contains("imu-1 is enrolled"), "{said}");
    let first = bed.serial("imu-1");

    let again = bed.agent(&[words[2], words[3], words[4], words[5], "--config", &config]).unwrap_err();
    assert!(again.contains("has been used"), "{again}");
    let stranger = Bed::start("12s").line_for(words[3], "imu-1");
    let wrong = bed.agent(&["enroll", words[3], "--token", &stranger, "--config", &config]).unwrap_err();
    assert!(wrong.contains("another key"), "{wrong}");

    let mut agent = bed.run("imu-1");
    bed.until_online("imu-1", true);
    bed.until_records("imu-1");
    // By itself, and without losing the connection to it.
    let second = bed.until_serial_is_not("imu-1", &first);
    agent.stop(Duration::from_secs(10)).unwrap();
    bed.until_online("imu-1", false);
    bed.until_expired("imu-1");
    assert_eq!(bed.serial("imu-1"), second);
    let agent = bed.run("imu-1");
    bed.until_online("imu-1", true);
    assert_ne!(bed.serial("imu-1"), second, "an expired certificate was renewed");

    assert!(bed.wayside(&["device", "revoke", "imu-1"]).unwrap().contains("imu-1"));
    bed.until_online("imu-1", false);
    bed.until_log_says("server.log", "a revoked device is refused");
    let refused = bed.agent(&["enroll", "--renew", "--config", &config]).unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");
    drop(agent);
    // A person may let it in again.
    bed.enroll("imu-1");
    let _agent = bed.run("imu-1");
    bed.until_online("imu-1", true);
    bed.stop();
}

/// An agent in this process whose clock shows something else. A clock that is wrong has it ask for the time, and keep the answer.
fn with_clock(bed: &Bed, device: &str, clock: Wall) {
    let config = Config::load(Path::new(&bed.config(device))).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let agent = runtime.block_on(Agent::start_with(config, Clock::showing(clock))).unwrap();
    let before = bed.records(device);
    wait_for("records of a device with a wrong clock", Duration::from_secs(60), || {
        Ok(if bed.records(device) > before { Look::Found(()) } else { Look::NotYet("none".into()) })
    })
    .unwrap();
    assert!(runtime.block_on(agent.stop()).clean);
    // What was stopped in its middle still has the stores.
    runtime.shutdown_timeout(Duration::from_secs(10));
    let kept = bed.signed_time(device);
    if (clock.0 - wall_now().0).abs() > DAY {
        assert!(kept.is_some_and(|kept| (kept.0 - wall_now().0).abs() < 120_000), "{device}: {kept:?}");
    }
}

#[test]
fn a_wrong_clock_keeps_no_device_away() {
    let mut bed = Bed::start("90d");
    for (device, clock) in [("imu-1", Wall(0)), ("imu-2", IN_2099), ("imu-3", Wall(wall_now().0 + 400 * DAY))] {
        bed.enroll(device);
        with_clock(&bed, device, clock);
        // And with the right one again.
        with_clock(&bed, device, wall_now());
    }
    bed.stop();
}

#[test]
fn a_device_that_was_off_while_its_certificate_expired_and_the_ca_was_rotated_comes_back() {
    let mut bed = Bed::start("4s");
    for device in ["imu-1", "imu-2"] {
        bed.enroll(device);
    }
    let before = bed.authorities("imu-1");
    bed.until_expired("imu-2");
    bed.stop_server();
    bed.rotate();
    bed.start_server("1h");
    // One clock was never set, the other stood still while the device was off.
    for (device, clock) in [("imu-1", Wall(0)), ("imu-2", Wall(wall_now().0 - 400 * DAY))] {
        with_clock(&bed, device, clock);
        assert_ne!(bed.authorities(device), before, "{device} knows the new CA");
    }
    bed.stop();
}

#[test]
fn after_200_days_off_a_device_renews_because_the_broker_refuses_it_and_uploads() {
    let mut bed = Bed::start("90d");
    for device in ["imu-1", "imu-2"] {
        bed.enroll(device);
    }
    bed.stop_server();
    // So that the time of the agent's build says nothing of it either.
    let long_ago = Wall(wall_now().0 - 200 * DAY);
    let expired = ["imu-1", "imu-2"].map(|device| bed.issued_at(device, long_ago));
    bed.start_server("90d");
    // Neither clock tells the device that its certificate has expired.
    for ((device, old), clock) in ["imu-1", "imu-2"].into_iter().zip(expired).zip([Wall(0), Wall(long_ago.0 + DAY)]) {
        with_clock(&bed, device, clock);
        assert_ne!(bed.serial(device), old, "{device}");
    }
    bed.stop();
}

#[test]
fn mosquitto_knows_devices_by_the_servers_ca_and_its_list_of_revoked_ones() {
    let Some(mut bed) = Bed::with_mosquitto() else { return };
    for device in ["imu-1", "imu-2"] {
        bed.enroll(device);
    }
    let mut agent = bed.run("imu-1");
    bed.until_records("imu-1");
    agent.stop(Duration::from_secs(10)).unwrap();
    bed.wayside(&["device", "revoke", "imu-1"]).unwrap();
    bed.restart_mosquitto();
    // The one that is not revoked comes in, the other does not.
    let _good = bed.run("imu-2");
    bed.until_records("imu-2");
    let before = bed.records("imu-1");
    let _revoked = bed.run("imu-1");
    bed.until_log_says("mosquitto.log", "certificate verify failed");
    assert_eq!(bed.records("imu-1"), before);
    bed.stop();
}

#[test]
fn an_unreachable_server_and_a_configuration_that_cannot_be_read_use_up_no_token() {
    let mut bed = Bed::start("90d");
    let line = bed.add("imu-1");
    let token = line.split_whitespace().last().unwrap();
    let config = bed.config("imu-1");
    let unreachable = bed.agent(&["enroll", "https://127.0.0.1:1", "--token", token, "--config", &config]).unwrap_err();
    assert!(unreachable.contains("cannot be reached"), "{unreachable}");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, good.replace("data_dir", "data_dri")).unwrap();
    let damaged = bed.agent(&["enroll", &bed.enroll_url, "--token", token, "--config", &config]).unwrap_err();
    assert!(damaged.contains("data_dri"), "{damaged}");
    fs::write(&config, &good).unwrap();
    let garbled = bed.agent(&["enroll", &bed.enroll_url, "--token", &token[1..], "--config", &config]).unwrap_err();
    assert!(garbled.contains("not a token"), "{garbled}");
    bed.agent(&["enroll", &bed.enroll_url, "--token", token, "--config", &config]).unwrap();
    bed.stop();
}

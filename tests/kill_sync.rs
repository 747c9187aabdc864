//! kill -9 of servers in the middle of sync, promotion and collection: no acknowledged publish is lost, no version is half there, and
//! the next start needs no repair by hand. `CAMPAIGN=long` makes 100 kills of each, else 10.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::process::{Command, Stdio};
use std::time::Duration;

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::campaign;
use direct_puppet_tests::serving::{Pair, live, until};
use direct_puppet_tests::site::Site;

const FILES: usize = 300;

/// Moments within `most`, in an order that does not depend on the machine.
fn moment(kill: usize, most: Duration) -> Duration {
    most.mul_f64(((kill * 37) % 100) as f64 / 100.0)
}

#[test]
fn a_replica_killed_anywhere_in_sync_has_the_old_or_the_new_version() {
    let pair = Pair::new();
    let (primary, mut replica) = (pair.start(0), pair.start(1));
    let mut old = pair.publish(&primary, 0, FILES, "v0");
    until("the first sync", || live(&replica) == old);
    let (mut fired_within, kills) = (0, campaign(100));
    for kill in 0..kills {
        let new = pair.publish(&primary, 0, FILES, &format!("v{}", kill + 1));
        // The news are on their way already.
        std::thread::sleep(moment(kill, Duration::from_millis(150)));
        replica.kill();
        replica = pair.start(1);
        let found = live(&replica);
        assert!(found == old || found == new, "neither old nor new");
        fired_within += usize::from(found == old);
        until("the sync", || live(&replica) == new);
        assert_eq!(replica.verb(&["verify"]).status.code(), Some(0));
        old = new;
    }
    println!("sync: {kills} kills, {fired_within} before the switch");
    assert!(fired_within > 0, "no kill hit a sync");
}

#[test]
fn a_server_that_does_not_run_publishes_and_promotes_nothing_over_the_heads_of_the_others() {
    let pair = Pair::new();
    let (primary, replica) = (pair.start(0), pair.start(1));
    let code = pair.publish(&primary, 0, FILES, "v0");
    until("the first sync", || live(&replica) == code);
    for (serving, server) in [(replica, 1), (primary, 0)] {
        serving.kill();
        let staging = pair.sites[server].dir().to_string_lossy().into_owned();
        pair.sites[server].fill(FILES, "v1");
        for verb in
            [&["publish", "--staging", &staging][..], &["promote"], &["promote", "--force"], &["rollout", "--pause", "why"]]
        {
            let mut command = Command::new(&binaries().server);
            command.args(verb).arg("--data").arg(pair.data(server));
            let output = run(command);
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && message.contains("start it"), "{verb:?}: {message}");
        }
        // To look is always allowed.
        let mut command = Command::new(&binaries().server);
        command.args(["verify", "--data"]).arg(pair.data(server));
        assert_eq!(run(command).status.code(), Some(0));
    }
}

#[test]
fn a_promotion_killed_anywhere_loses_no_publish_and_can_be_asked_again() {
    let pair = Pair::new();
    let mut servers = [pair.start(0), pair.start(1)];
    let (mut primary, mut cut_off, kills) = (0, 0, campaign(100));
    for kill in 0..kills {
        let code = pair.publish(&servers[primary], primary, FILES, &format!("v{kill}"));
        let next = 1 - primary;
        let mut command = Command::new(&binaries().server);
        command.args(["promote", "--data"]).arg(pair.data(next)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut promote = command.spawn().unwrap();
        std::thread::sleep(moment(kill, Duration::from_millis(60)));
        // The one that is being promoted, or the one that steps down.
        let victim = if kill % 2 == 0 { next } else { primary };
        let restarted = |server: usize| pair.start(server);
        let [a, b] = servers;
        servers = if victim == 0 {
            a.kill();
            [restarted(0), b]
        } else {
            b.kill();
            [a, restarted(1)]
        };
        let is_done = promote.wait().unwrap().success();
        cut_off += usize::from(!is_done);
        if !is_done {
            // It may have been done all the same, with only the answer lost.
            let again = servers[next].verb(&["promote"]);
            let message = String::from_utf8_lossy(&again.stderr);
            assert!(again.status.success() || message.contains("it is the primary"), "{message}");
        }
        primary = next;
        let other = 1 - primary;
        until("the other to follow", || live(&servers[other]) == code && live(&servers[primary]) == code);
        assert_eq!(servers[other].verb(&["publish"]).status.code(), Some(1), "two primaries");
    }
    println!("promotion: {kills} kills, {cut_off} cut it off");
    assert!(cut_off > 0, "no kill hit a promotion");
    for server in &servers {
        assert_eq!(server.verb(&["verify"]).status.code(), Some(0));
    }
}

#[test]
fn a_collection_killed_anywhere_leaves_every_version_whole_or_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (site, data) = (Site::new(&dir.path().join("site")), dir.path().join("data"));
    let verb = |arguments: &[&str]| {
        let mut command = Command::new(&binaries().server);
        command.args(arguments).arg("--data").arg(&data).arg("--json");
        command
    };
    let (mut killed, kills) = (0, campaign(100));
    for kill in 0..kills {
        for part in ["a", "b"] {
            site.fill(FILES, &format!("v{kill}{part}"));
            let output = run(verb(&["publish", "--staging", &site.dir().to_string_lossy()]));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let mut collect = verb(&["gc", "--grace-days", "0"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment(kill, Duration::from_millis(60)));
        collect.kill().unwrap();
        killed += usize::from(collect.wait().unwrap().code().is_none());
        let verified = run(verb(&["verify"]));
        assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
        // What was left is collected by the next.
        assert!(run(verb(&["gc", "--grace-days", "0"])).status.success());
        assert_eq!(json(&run(verb(&["verify"])))["versions"], 1);
    }
    println!("collection: {kills} kills, {killed} hit it");
    assert!(killed > 0, "no kill hit a collection");
}

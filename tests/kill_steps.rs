//! kill -9 of servers at every step of publish, collection, sync and promotion, a step being a system call (see
//! [`direct_puppet_tests::steps`]): no acknowledged publish is lost, no version is half there, and what comes next needs no repair by
//! hand. Of publish and collection every step is taken; of what running servers do with `CAMPAIGN=long`, else every fifth of a kind; of
//! servers that share a store every fifth, else every ninth.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use direct_puppet_agent::store::Store;
use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::campaign;
use direct_puppet_tests::serving::{Pair, Serving, live, until};
use direct_puppet_tests::site::{Site, files};
use direct_puppet_tests::steps::{Fate, at_every_step, can_tell_steps};
use direct_puppet_transport::protocol::Digest;
use serde_json::Value;

#[path = "kill_steps/shared.rs"]
mod shared;

/// Enough of them new in a version that they go into a pack, and enough left of an old pack that it is written anew.
const FILES: usize = 260;
const CHANGED: usize = 195;
/// Files of a version that a replica fetches: for each there are two steps.
const SYNCED: usize = 20;

/// A server that does not run, with its staging.
struct Idle {
    dir: tempfile::TempDir,
    site: Site,
}

impl Idle {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::new(&dir.path().join("site"));
        Self { site, dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn verb(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&binaries().server);
        command.args(arguments).arg("--data").arg(self.data()).arg("--json");
        command
    }

    fn publish(&self) -> Command {
        self.verb(&["publish", "--staging", &self.site.dir().to_string_lossy()])
    }

    /// As [`Idle::publish`], as a deploy tool does it that asks again when it got no answer.
    fn publish_as(&self, request_id: &str) -> Command {
        let mut command = self.publish();
        command.args(["--request-id", request_id]);
        command
    }

    /// Returns the code of every version that a request made.
    fn made_by(&self, request_id: &str) -> Vec<Value> {
        let versions = Self::well(self.verb(&["versions"]));
        let of_it = versions.as_array().unwrap().iter().filter(|version| version["request_id"] == request_id);
        of_it.map(|version| version["code_id"].clone()).collect()
    }

    /// Returns the code that is live as its file says, without asking anybody.
    fn live_file(&self) -> Value {
        let live = std::fs::read(self.data().join("code/production/live.json")).unwrap();
        serde_json::from_slice::<Value>(&live).unwrap()["code_id"].clone()
    }

    /// Returns the contents in the store; no server works with it.
    fn contents(&self) -> BTreeSet<Digest> {
        Store::ensure(&self.data().join("store")).unwrap().digests().unwrap().into_iter().collect()
    }

    /// Runs a verb that must go well; returns what it printed.
    fn well(command: Command) -> Value {
        let output = run(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json(&output)
    }

    /// Changes staging: many small files, and a large one that no pack takes.
    fn change(&self, version: &str) {
        self.site.fill(CHANGED, version);
        std::fs::write(self.site.tree().join("large"), version.repeat(40_000)).unwrap();
    }

    fn live(&self) -> Value {
        Self::well(self.verb(&["versions"])).as_array().unwrap().last().map_or(Value::Null, |last| last["code_id"].clone())
    }
}

/// Asserts that nothing temporary is left.
fn assert_tidy(data: &Path) {
    let is_temporary =
        |path: &PathBuf| [".new", ".put", ".tmp", ".partial"].iter().any(|end| path.to_string_lossy().ends_with(end));
    let left: Vec<PathBuf> = files(data).into_keys().filter(is_temporary).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Asserts that each of these calls was hit, and that a sweep had at least so many steps: one that collapses shows nothing.
fn assert_hit(kills: &BTreeMap<&str, usize>, calls: &[&str], least: usize) {
    for call in calls {
        assert!(kills.contains_key(call), "no kill hit {call}");
    }
    let steps = kills.values().sum::<usize>();
    assert!(steps >= least, "only {steps} kills: {kills:?}");
}

#[test]
fn a_publish_killed_at_every_step_keeps_old_or_new() {
    if !can_tell_steps("a publish killed at every step") {
        return;
    }
    let idle = Idle::new();
    idle.site.fill(FILES, "v0");
    let mut old = Idle::well(idle.publish())["environments"][0]["code_id"].clone();
    let (mut attempts, mut found_new) = (0, 0);
    let kills = at_every_step("publish", 1, |step| {
        attempts += 1;
        idle.change(&format!("v{attempts}"));
        let request = format!("request{attempts}");
        let fate = step.run(&idle.publish_as(&request));
        let found = idle.live();
        let verified = run(idle.verb(&["verify"]));
        assert_eq!(verified.status.code(), Some(0), "{step}: {}", String::from_utf8_lossy(&verified.stdout));
        if found != old {
            // Whoever asks again gets the answer that was lost, whatever is staged by then.
            std::fs::write(idle.site.tree().join("staged since"), &request).unwrap();
            found_new += usize::from(fate == Fate::Killed);
        }
        let published = Idle::well(idle.publish_as(&request));
        let new = published["environments"][0]["code_id"].clone();
        assert!(found == old || found == new, "{step}: neither old nor new");
        assert!(fate == Fate::Killed || found == new, "{step}: it ended but is not live");
        assert_eq!((idle.live(), &published["environments"][0]["changed"]), (new.clone(), &true.into()), "{step}");
        assert_ne!(new, old, "{step}");
        assert_eq!(idle.made_by(&request), std::slice::from_ref(&new), "{step}");
        assert_tidy(&idle.data());
        old = new;
        // History need not grow with the number of steps.
        if attempts % 10 == 0 {
            Idle::well(idle.verb(&["gc", "--grace-days", "0"]));
        }
        fate
    });
    assert_hit(&kills, &["write", "fsync", "rename"], 20);
    assert_eq!(run(idle.verb(&["verify"])).status.code(), Some(0));
    assert!(found_new > 0, "no kill hit between the switch and the answer");
    // What the killed publishes left is gone then: there is what a server has that never published anything but what is live.
    idle.change("at last");
    Idle::well(idle.publish());
    Idle::well(idle.verb(&["gc", "--grace-days", "0"]));
    assert_eq!(Idle::well(idle.verb(&["verify"]))["versions"], 1);
    let left = idle.contents();
    let only = Idle { dir: tempfile::tempdir().unwrap(), ..idle };
    Idle::well(only.publish());
    let needed = only.contents();
    assert!(needed.len() > FILES && left == needed, "left of killed publishes: {:?}", left.difference(&needed));
}

#[test]
fn a_rollback_killed_at_every_step_keeps_new_or_old_and_is_made_once() {
    if !can_tell_steps("a rollback killed at every step") {
        return;
    }
    let idle = Idle::new();
    idle.site.fill(FILES, "v0");
    Idle::well(idle.publish());
    idle.change("v1");
    let codes = [idle.live(), Idle::well(idle.publish())["environments"][0]["code_id"].clone()];
    let (mut attempts, mut found_new) = (0, 0);
    let kills = at_every_step("rollback", 1, |step| {
        attempts += 1;
        let (from, to) = (&codes[attempts % 2], &codes[(attempts + 1) % 2]);
        let request = format!("request{attempts}");
        let rollback =
            || idle.verb(&["rollback", to.as_str().unwrap(), "--request-id", &request, "--if-live", from.as_str().unwrap()]);
        let fate = step.run(&rollback());
        let found = idle.live();
        let verified = run(idle.verb(&["verify"]));
        assert_eq!(verified.status.code(), Some(0), "{step}: {}", String::from_utf8_lossy(&verified.stdout));
        assert!(found == *from || found == *to, "{step}: neither");
        assert!(fate == Fate::Killed || found == *to, "{step}: it ended but is not live");
        found_new += usize::from(fate == Fate::Killed && found == *to);
        let back = Idle::well(rollback());
        assert_eq!((&idle.live(), &back["code_id"], &back["changed"]), (to, to, &true.into()), "{step}");
        assert_eq!(idle.made_by(&request), std::slice::from_ref(to), "{step}");
        assert_tidy(&idle.data());
        fate
    });
    assert_hit(&kills, &["write", "fsync", "rename"], 8);
    assert!(found_new > 0, "no kill hit between the switch and the answer");
}

#[test]
fn a_collection_killed_at_every_step_leaves_every_version_whole_or_gone() {
    if !can_tell_steps("a collection killed at every step") {
        return;
    }
    let idle = Idle::new();
    let mut attempts = 0;
    let kills = at_every_step("collection", 1, |step| {
        attempts += 1;
        idle.site.fill(FILES, &format!("v{attempts}"));
        Idle::well(idle.publish());
        // Most of the first version's pack is wanted by nobody then, the rest is.
        idle.change(&format!("w{attempts}"));
        let live = Idle::well(idle.publish())["environments"][0]["code_id"].clone();
        let fate = step.run(&idle.verb(&["gc", "--grace-days", "0"]));
        let verified = run(idle.verb(&["verify"]));
        assert_eq!(verified.status.code(), Some(0), "{step}: {}", String::from_utf8_lossy(&verified.stdout));
        assert_eq!(idle.live(), live, "{step}");
        // What was left is collected by the next.
        Idle::well(idle.verb(&["gc", "--grace-days", "0"]));
        assert_eq!(Idle::well(idle.verb(&["verify"]))["versions"], 1, "{step}");
        assert_tidy(&idle.data());
        fate
    });
    assert_hit(&kills, &["write", "fsync", "rename", "unlink"], 15);
}

/// Every step, or every fifth.
fn stride() -> usize {
    if campaign(10) == 10 { 1 } else { 5 }
}

/// Whether a server is killed before something is so; afterwards it has a moment to come to steps that nobody waits for.
fn is_killed_before(serving: &mut Serving, is_so: impl Fn() -> bool) -> Fate {
    let begun = Instant::now();
    let mut since = None;
    loop {
        if serving.is_killed() {
            return Fate::Killed;
        }
        if since.is_some_and(|since: Instant| since.elapsed() > Duration::from_millis(200)) {
            return Fate::Ended;
        }
        if since.is_none() && is_so() {
            since = Some(Instant::now());
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "neither killed nor done");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_replica_killed_at_every_step_of_sync_has_the_old_or_the_new_version() {
    if !can_tell_steps("a replica killed at every step of sync") {
        return;
    }
    let pair = Pair::new();
    let (primary, mut replica) = (pair.start(0), pair.start(1));
    let mut old = pair.publish(&primary, 0, SYNCED, "v0");
    until("the first sync", || live(&replica) == old);
    let mut attempts = 0;
    let kills = at_every_step("sync", stride(), |step| {
        attempts += 1;
        let ambush = step.wait_for(replica.pid());
        let new = pair.publish(&primary, 0, SYNCED, &format!("v{attempts}"));
        let fate = is_killed_before(&mut replica, || pair.live(1) == new);
        drop(ambush);
        if fate == Fate::Killed {
            // Before it can catch up.
            let found = pair.live(1);
            assert!(found == old || found == new, "{step}: neither old nor new");
            let verified = run(pair.verb(1, &["verify"]));
            assert_eq!(verified.status.code(), Some(0), "{step}: {}", String::from_utf8_lossy(&verified.stdout));
            replica = pair.start(1);
            until("the sync", || live(&replica) == new);
        }
        old = new;
        fate
    });
    assert_eq!(replica.verb(&["verify"]).status.code(), Some(0));
    drop(replica);
    assert_tidy(&pair.data(1));
    assert_hit(&kills, &["write", "fsync", "rename"], 50 / stride());
}

/// Asks a server to publish, as a deploy tool does over HTTP; returns its answer, or nothing where it was cut off.
fn post_publish(url: &str, request_id: &str) -> Option<Value> {
    let address = url.strip_prefix("http://").unwrap();
    let body = serde_json::json!({ "request_id": request_id }).to_string();
    let head =
        format!("POST /file-sync/v1/publish HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}", body.len());
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "{head}\r\nContent-Type: application/json\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    // What was cut off in the middle is no answer.
    serde_json::from_str(body.trim_end()).ok()
}

#[test]
fn a_server_killed_at_every_step_of_a_publish_that_is_posted_to_it_keeps_old_or_new() {
    if !can_tell_steps("a server killed at every step of a posted publish") {
        return;
    }
    let idle = Idle::new();
    let dir = idle.dir.path();
    let start = || Serving::listening(dir, &idle.site, &["http://127.0.0.1:0"], &[]);
    idle.site.fill(SYNCED, "v0");
    let mut server = start();
    let code_of = |answer: &Value| answer["environments"][0]["code_id"].clone();
    let mut old = code_of(&post_publish(&server.urls[0], "request0").unwrap());
    let (mut attempts, mut found_new, mut acknowledged) = (0, 0, 0);
    let kills = at_every_step("posted publish", stride(), |step| {
        attempts += 1;
        let request = format!("request{attempts}");
        idle.site.fill(SYNCED, &format!("v{attempts}"));
        let ambush = step.wait_for(server.pid());
        let answer = post_publish(&server.urls[0], &request);
        let is_answered = answer.is_some();
        let fate = is_killed_before(&mut server, || is_answered);
        drop(ambush);
        if fate == Fate::Killed {
            let found = idle.live_file();
            let verified = run(idle.verb(&["verify"]));
            assert_eq!(verified.status.code(), Some(0), "{step}: {}", String::from_utf8_lossy(&verified.stdout));
            assert_eq!(
                answer.as_ref().map(code_of).unwrap_or_else(|| found.clone()),
                found,
                "{step}: an acknowledged publish is lost"
            );
            acknowledged += usize::from(is_answered);
            if found != old {
                // Whoever asks again gets the answer that was lost, whatever is staged by then.
                std::fs::write(idle.site.tree().join("staged since"), &request).unwrap();
                found_new += usize::from(!is_answered);
            }
            server = start();
            let again = code_of(&post_publish(&server.urls[0], &request).expect("an answer"));
            assert!(found == old || found == again, "{step}: neither old nor new");
            assert_ne!(again, old, "{step}");
            assert_eq!(live(&server), again, "{step}");
            let versions = json(&server.verb(&["versions"]));
            let of_it = versions.as_array().unwrap().iter().filter(|version| version["request_id"] == request.as_str());
            assert_eq!(
                of_it.map(|version| version["code_id"].clone()).collect::<Vec<_>>(),
                std::slice::from_ref(&again),
                "{step}"
            );
            old = again;
        } else {
            old = code_of(&answer.expect("an answer"));
        }
        fate
    });
    println!("posted publish: {found_new} live without an answer, {acknowledged} killed after it");
    assert_hit(&kills, &["write", "fsync", "rename"], 50 / stride());
    assert_eq!(server.verb(&["verify"]).status.code(), Some(0));
    drop(server);
    assert_tidy(&idle.data());
}

/// The primary is gone, and an administrator forces the promotion of the other.
#[test]
fn a_forced_promotion_killed_at_every_step_can_be_asked_again_and_the_old_primary_follows() {
    if !can_tell_steps("a forced promotion killed at every step") {
        return;
    }
    let pair = Pair::new();
    let mut servers = [Some(pair.start(0)), Some(pair.start(1))];
    let (mut primary, mut attempts) = (0, 0);
    let kills = at_every_step("forced promotion", stride(), |step| {
        attempts += 1;
        let next = 1 - primary;
        let code = pair.publish(servers[primary].as_ref().unwrap(), primary, 10, &format!("v{attempts}"));
        until("the other to follow", || live(servers[next].as_ref().unwrap()) == code);
        servers[primary].take().unwrap().kill();
        let mut promoted = servers[next].take().unwrap();
        let ambush = step.wait_for(promoted.pid());
        let is_done = pair.verb(next, &["promote", "--force"]).output().unwrap().status.success();
        let fate = is_killed_before(&mut promoted, || is_done);
        drop(ambush);
        if fate == Fate::Killed {
            let verified = run(pair.verb(next, &["verify"]));
            assert_eq!(verified.status.code(), Some(0), "{step}: {}", String::from_utf8_lossy(&verified.stdout));
            promoted = pair.start(next);
        }
        if !is_done {
            let again = promoted.verb(&["promote", "--force"]);
            let message = String::from_utf8_lossy(&again.stderr);
            assert!(again.status.success() || message.contains("it is the primary"), "{step}: {message}");
        }
        assert_eq!(live(&promoted), code, "{step}: an acknowledged publish is lost");
        // The old one comes back, and has been replaced.
        let returned = pair.start(primary);
        until("the old primary to follow", || live(&returned) == code);
        assert_eq!(returned.verb(&["publish"]).status.code(), Some(1), "{step}: two primaries");
        (servers[primary], servers[next]) = (Some(returned), Some(promoted));
        primary = next;
        fate
    });
    assert_hit(&kills, &["fsync", "rename"], 20 / stride());
    for server in servers.iter().flatten() {
        assert_eq!(server.verb(&["verify"]).status.code(), Some(0));
    }
}

/// Promotes one server after the other; the one that `victim` chooses, of the next and the last primary, is killed at every step.
fn promotions(what: &str, victim: impl Fn(usize, usize) -> usize) -> BTreeMap<&'static str, usize> {
    let pair = Pair::new();
    let mut servers = [pair.start(0), pair.start(1)];
    let (mut primary, mut attempts) = (0, 0);
    let kills = at_every_step(what, stride(), |step| {
        attempts += 1;
        let code = pair.publish(&servers[primary], primary, 10, &format!("v{attempts}"));
        let next = 1 - primary;
        until("the other to follow", || live(&servers[next]) == code);
        let victim = victim(next, primary);
        let ambush = step.wait_for(servers[victim].pid());
        let mut promote = pair.verb(next, &["promote"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let is_done = promote.wait().unwrap().success();
        let fate = is_killed_before(&mut servers[victim], || is_done);
        drop(ambush);
        if fate == Fate::Killed {
            let verified = run(pair.verb(victim, &["verify"]));
            assert_eq!(verified.status.code(), Some(0), "{step}: {}", String::from_utf8_lossy(&verified.stdout));
            servers[victim] = pair.start(victim);
        }
        if !is_done {
            // It may have been done all the same, with only the answer lost.
            let again = servers[next].verb(&["promote"]);
            let message = String::from_utf8_lossy(&again.stderr);
            assert!(again.status.success() || message.contains("it is the primary"), "{step}: {message}");
        }
        primary = next;
        let other = 1 - primary;
        until("the other to follow", || live(&servers[other]) == code && live(&servers[primary]) == code);
        assert_eq!(servers[other].verb(&["publish"]).status.code(), Some(1), "{step}: two primaries");
        fate
    });
    for server in &servers {
        assert_eq!(server.verb(&["verify"]).status.code(), Some(0));
    }
    kills
}

#[test]
fn a_promotion_killed_at_every_step_of_the_new_primary_can_be_asked_again() {
    if can_tell_steps("a promotion killed at every step of the new primary") {
        assert_hit(&promotions("promotion, the new primary", |next, _| next), &["fsync", "rename"], 4);
    }
}

#[test]
fn a_promotion_killed_at_every_step_of_the_old_primary_can_be_asked_again() {
    if can_tell_steps("a promotion killed at every step of the old primary") {
        assert_hit(&promotions("promotion, the old primary", |_, primary| primary), &["fsync", "rename"], 4);
    }
}

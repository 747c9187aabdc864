//! Servers that share a store of files, killed at every step: what is in the store is whole for the others, and what was acknowledged is there.

use std::process::Command;

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::equals::Equals;
use direct_puppet_tests::serving::{Serving, live, until};
use direct_puppet_tests::site::files;
use direct_puppet_tests::steps::{Fate, Step, at_every_step, can_tell_steps};

use super::{SYNCED, assert_hit, is_killed_before};

/// Every fifth step, or every ninth: most are those of servers without a store, of which each is taken.
fn stride() -> usize {
    super::stride() + 4
}

/// Two servers of which one is to be killed.
struct Two {
    equals: Equals,
    victim: Option<Serving>,
    other: Serving,
}

impl Two {
    fn new() -> Self {
        let equals = Equals::new(None);
        let (victim, other) = (Some(equals.start(0, &[])), equals.start(1, &[]));
        Self { equals, victim, other }
    }

    fn victim(&self) -> &Serving {
        self.victim.as_ref().unwrap()
    }

    /// Has the victim do something and kills it at a step of that; started again, it is well, and so is the other. Returns whether it said
    /// that it was done, and its fate.
    fn attempt(&mut self, step: Step, arguments: &[&str]) -> (Option<serde_json::Value>, Fate) {
        let ambush = step.wait_for(self.victim().pid());
        let mut command = Command::new(&binaries().server);
        let output = run({
            command.args(arguments).arg("--json").arg("--data").arg(self.equals.data(0));
            command
        });
        let is_done = output.status.success();
        let fate = is_killed_before(self.victim.as_mut().unwrap(), || is_done);
        drop(ambush);
        if fate == Fate::Killed {
            drop(self.victim.take());
            self.victim = Some(self.equals.start(0, &[]));
        }
        for server in [self.victim(), &self.other] {
            let verified = server.verb(&["verify"]);
            assert_eq!(verified.status.code(), Some(0), "{step}: {}", String::from_utf8_lossy(&verified.stdout));
        }
        (is_done.then(|| json(&output)), fate)
    }

    /// A server with nothing but the store answers a node with nothing.
    fn is_all_in_store(&mut self, step: Step, attempt: usize) {
        drop(self.victim.take());
        std::fs::remove_dir_all(self.equals.data(0)).unwrap();
        self.victim = Some(self.equals.start(0, &[]));
        let root = self.equals.node(&format!("bare{attempt}"));
        let applied = self.equals.agent(&root, 0);
        assert_eq!(applied.status.code(), Some(2), "{step}: {}", String::from_utf8_lossy(&applied.stderr));
        assert_eq!(files(&root.join("srv/tree")), files(&self.equals.sites[0].tree()), "{step}");
        std::fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn a_server_of_a_store_killed_at_every_step_of_a_publish_loses_nothing() {
    if !can_tell_steps("a server of a shared store killed at every step of a publish") {
        return;
    }
    let mut two = Two::new();
    let mut old = two.equals.publish(two.victim(), 0, SYNCED, "v0")["code_id"].clone();
    let (mut attempts, mut acknowledged) = (0, 0);
    let kills = at_every_step("publish into a shared store", stride(), |step| {
        attempts += 1;
        let request = format!("request{attempts}");
        two.equals.sites[0].fill(SYNCED, &format!("v{attempts}"));
        let (answer, fate) = two.attempt(step, &["publish", "--request-id", &request]);
        let again = two.victim().verb(&["publish", "--request-id", &request]);
        assert!(again.status.success(), "{step}: {}", String::from_utf8_lossy(&again.stderr));
        let new = json(&again)["environments"][0]["code_id"].clone();
        assert_ne!(new, old, "{step}");
        if let Some(answer) = answer {
            assert_eq!(answer["environments"][0]["code_id"], new, "{step}: an acknowledged publish is lost");
            acknowledged += usize::from(fate == Fate::Killed);
        }
        until("the other to have it", || live(&two.other) == new);
        let versions = json(&two.other.verb(&["versions"]));
        let of_it = versions.as_array().unwrap().iter().filter(|version| version["request_id"] == request.as_str());
        assert_eq!(of_it.map(|version| &version["code_id"]).collect::<Vec<_>>(), [&new], "{step}");
        if attempts % 5 == 0 {
            two.is_all_in_store(step, attempts);
        }
        old = new;
        fate
    });
    println!("publish into a shared store: {acknowledged} killed after the answer");
    assert_hit(&kills, &["write", "fsync", "rename"], 50 / stride());
}

#[test]
fn a_server_of_a_store_killed_at_every_step_of_a_collection_leaves_what_is_live() {
    if !can_tell_steps("a server of a shared store killed at every step of a collection") {
        return;
    }
    let mut two = Two::new();
    let root = two.equals.node("node");
    let mut attempts = 0;
    let kills = at_every_step("collection in a shared store", stride(), |step| {
        attempts += 1;
        // A version that nobody holds then, with its catalog, and one that is live.
        for version in ["v", "w"] {
            two.equals.publish(two.victim(), 0, SYNCED, &format!("{version}{attempts}"));
            assert_eq!(two.equals.agent(&root, 0).status.code(), Some(2), "{step}");
        }
        let new = live(two.victim());
        let (_, fate) = two.attempt(step, &["gc", "--grace-days", "0"]);
        assert_eq!((live(two.victim()), live(&two.other)), (new.clone(), new), "{step}");
        assert_eq!(json(&two.equals.agent(&root, 1))["answer"], "current", "{step}: its catalog is lost");
        two.is_all_in_store(step, attempts);
        let collected = two.victim().verb(&["gc", "--grace-days", "0"]);
        assert!(collected.status.success(), "{step}: {}", String::from_utf8_lossy(&collected.stderr));
        fate
    });
    assert_hit(&kills, &["unlink", "fsync"], 20 / stride());
}

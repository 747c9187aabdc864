//! kill -9 of the certificate authority at every step of setup, signing, revoking and cleaning, a step being a system call (see
//! [`direct_puppet_tests::steps`]): no number is given twice, every file stays readable, and what was revoked stays so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::steps::{Fate, at_every_step, can_tell_steps};
use serde_json::Value;

use super::*;

/// An authority that no server serves.
struct Idle {
    dir: TempDir,
    nodes: usize,
    /// What was told to be revoked.
    revoked: Vec<String>,
    /// Highest number that was given.
    highest: u64,
}

impl Idle {
    fn new() -> Self {
        let idle = Self::empty();
        assert!(run(idle.verb(&["setup"])).status.success());
        idle
    }

    fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), nodes: 0, revoked: Vec::new(), highest: 1 }
    }

    fn cadir(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    fn verb(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&binaries().server);
        command.arg("ca").args(arguments).arg("--cadir").arg(self.cadir());
        command
    }

    /// Runs a verb for a name, which must go well.
    fn well(&self, verb: &str, name: &str) {
        let output = run(self.verb(&[verb, "--certname", name]));
        assert!(output.status.success(), "{verb} {name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A node that waits for its certificate.
    fn asking(&mut self) -> String {
        self.nodes += 1;
        let node = format!("n{}.example.com", self.nodes);
        let made = request(&name(&node), &make_key().unwrap(), &RequestOptions::default()).unwrap();
        write(&self.cadir().join("requests"), &format!("{node}.pem"), &made);
        node
    }

    /// A node that has its certificate.
    fn signed(&mut self) -> String {
        let node = self.asking();
        self.well("sign", &node);
        node
    }

    /// Returns what is known of every name; asserts what holds whenever the authority was killed.
    fn checked(&mut self, context: &str) -> BTreeMap<String, Value> {
        let listed = run(self.verb(&["list", "--all", "--json"]));
        assert!(listed.status.success(), "{context}: {}", String::from_utf8_lossy(&listed.stderr));
        // A file that cannot be read is told, and passed over.
        assert_eq!(String::from_utf8_lossy(&listed.stderr), "", "{context}");
        let all: BTreeMap<String, Value> = json(&listed)
            .as_array()
            .unwrap()
            .iter()
            .map(|status| (status["name"].as_str().unwrap().to_owned(), status.clone()))
            .collect();
        let inventory = fs::read_to_string(self.cadir().join("inventory.txt")).unwrap();
        let whole = inventory.lines().filter(|line| line.contains(" /CN="));
        let numbers: Vec<u64> = whole.map(|line| u64::from_str_radix(&line[2..line.find(' ').unwrap()], 16).unwrap()).collect();
        let once: BTreeSet<u64> = numbers.iter().copied().collect();
        assert_eq!(once.len(), numbers.len(), "{context}: a number was given twice: {numbers:?}");
        assert!(numbers.is_sorted(), "{context}: {numbers:?}");
        for status in all.values().filter(|status| status["state"] != "requested") {
            assert!(once.contains(&status["serial_number"].as_u64().unwrap()), "{context}: not in the inventory: {status}");
        }
        let highest = once.last().copied().unwrap_or(1);
        assert!(highest >= self.highest, "{context}: the inventory has lost a line");
        self.highest = highest;
        for node in &self.revoked {
            assert_eq!(all[node]["state"], "revoked", "{context}: {node}");
        }
        all
    }
}

#[test]
fn a_signature_killed_at_every_step_takes_no_number_twice() {
    if !can_tell_steps("a signature killed at every step") {
        return;
    }
    let mut idle = Idle::new();
    let kills = at_every_step("signature", 1, |step| {
        let node = idle.asking();
        let before = idle.highest;
        let fate = step.run(&idle.verb(&["sign", "--certname", &node]));
        let all = idle.checked(&step.to_string());
        let is_signed = all[&node]["state"] == "signed";
        assert!(is_signed || fate == Fate::Killed, "{step}: it ended but nothing is signed");
        assert!(!is_signed || all[&node]["serial_number"].as_u64().unwrap() > before, "{step}");
        // No repair by hand.
        if idle.cadir().join(format!("requests/{node}.pem")).exists() {
            idle.well("sign", &node);
        }
        let all = idle.checked(&step.to_string());
        assert!(all[&node]["state"] == "signed" && all[&node]["serial_number"].as_u64().unwrap() > before, "{step}");
        fate
    });
    for call in ["write", "fsync", "rename"] {
        assert!(kills.contains_key(call), "no kill hit {call}");
    }
}

#[test]
fn a_revocation_killed_at_every_step_is_undone_or_holds() {
    if !can_tell_steps("a revocation killed at every step") {
        return;
    }
    let mut idle = Idle::new();
    let kills = at_every_step("revocation", 1, |step| {
        let node = idle.signed();
        let fate = step.run(&idle.verb(&["revoke", "--certname", &node]));
        if fate == Fate::Ended {
            idle.revoked.push(node.clone());
        }
        let all = idle.checked(&step.to_string());
        assert!(["signed", "revoked"].contains(&all[&node]["state"].as_str().unwrap()), "{step}");
        if all[&node]["state"] == "revoked" {
            // Whoever has read that list knows it.
            idle.revoked.push(node.clone());
        }
        idle.well("revoke", &node);
        idle.revoked.push(node);
        idle.checked(&step.to_string());
        fate
    });
    assert!(kills.contains_key("write") && kills.contains_key("rename"), "{kills:?}");
}

#[test]
fn a_cleaning_killed_at_every_step_leaves_no_certificate_that_is_valid_and_forgotten() {
    if !can_tell_steps("a cleaning killed at every step") {
        return;
    }
    let mut idle = Idle::new();
    at_every_step("cleaning", 1, |step| {
        let node = idle.signed();
        let number = idle.checked("before")[&node]["serial_number"].as_u64().unwrap();
        let fate = step.run(&idle.verb(&["clean", "--certname", &node]));
        let all = idle.checked(&step.to_string());
        let is_there = all.contains_key(&node);
        assert!(fate == Fate::Killed || !is_there, "{step}: it ended but the certificate is there");
        if !is_there {
            assert!(is_revoked(&idle.cadir().join("ca_crl.pem"), number), "{step}: it is removed but valid");
        }
        // Also of a name of which nothing but the inventory is left.
        idle.well("clean", &node);
        assert!(is_revoked(&idle.cadir().join("ca_crl.pem"), number), "{step}");
        assert!(!idle.checked(&step.to_string()).contains_key(&node), "{step}");
        fate
    });
}

#[test]
fn a_setup_killed_at_every_step_is_whole_or_begun_again() {
    if !can_tell_steps("a setup killed at every step") {
        return;
    }
    at_every_step("setup", 1, |step| {
        let mut idle = Idle::empty();
        let fate = step.run(&idle.verb(&["setup"]));
        let again = run(idle.verb(&["setup"]));
        let told = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.success() || told.contains("ca_key.pem is there already"), "{step}: {told}");
        let node = idle.signed();
        assert_eq!(idle.checked(&step.to_string())[&node]["serial_number"], 2, "{step}");
        fate
    });
}

/// Whether the list revokes a number.
fn is_revoked(list: &Path, number: u64) -> bool {
    let output = Command::new("openssl").args(["crl", "-noout", "-text", "-in"]).arg(list).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.lines().filter_map(|line| line.trim().strip_prefix("Serial Number: "));
    numbers.map(|digits| u64::from_str_radix(digits, 16).unwrap()).any(|revoked| revoked == number)
}

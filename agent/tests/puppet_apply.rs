//! The same catalogs applied by Puppet and here: events in their order, what failed and what was skipped, counters, and what is on the machine:
//! files, users, groups, crontabs, hosts and keys. Both apply in mount namespaces of their own ([`machines`]); half of the catalogs are random
//! ([`random`]). What differs by intent is told in `tests/interop/DIFFERENCES.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::{Value as Json, json};

#[path = "puppet_apply/machines.rs"]
mod machines;
#[path = "puppet_apply/random.rs"]
mod random;
#[path = "../examples/support/mod.rs"]
mod support;
#[path = "puppet_apply/web.rs"]
mod web;

/// How many random catalogs there are in the long campaign (`CAMPAIGN=long`): Puppet takes seconds for each.
const SEEDS: u64 = 300;

/// How many there are otherwise.
const FEW: u64 = 16;

/// How many catalogs Puppet applies before they are compared.
const AT_A_TIME: usize = 40;

/// What was there before.
#[derive(Debug, Clone)]
enum Before {
    File(&'static str, u32),
    Directory,
    Link(&'static str),
}

/// One catalog, how it is applied, and what was there before.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    catalog: Json,
    /// Below `/mnt`.
    before: Vec<(String, Before)>,
    /// Lines that are added to files of the machine, as `etc/passwd`.
    lines: Vec<(String, String)>,
    tags: Vec<String>,
    skip_tags: Vec<String>,
}

/// What is compared.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Ran {
    /// Resource, property, status and message.
    events: Vec<(String, String, String, String)>,
    failed: BTreeSet<String>,
    skipped: BTreeSet<String>,
    counters: BTreeMap<String, u64>,
    status: String,
}

impl Ran {
    /// Takes away what differs by intent: the wording of failures and of types that have their own, counters that only one of both has, and what is
    /// told of jobs and keys whose user is not there.
    fn comparable(mut self) -> Self {
        for (resource, property, status, message) in &mut self.events {
            let has_words = ["Notify[", "User[", "Group[", "Cron[", "Host[", "Ssh_authorized_key["];
            let is_common = has_words.iter().any(|name| resource.starts_with(name)) && status != "failure"
                || property.is_empty() && status == "success"
                || status == "audit";
            if !is_common {
                message.clear();
            }
        }
        let mut compared = vec!["failed", "failed_to_restart", "restarted", "skipped", "total"];
        let has_no_user = |name: &String| name.starts_with("Cron[") || name.starts_with("Ssh_authorized_key[");
        if self.failed.iter().any(has_no_user) {
            self.events.retain(|(resource, ..)| !(has_no_user(resource) && self.failed.contains(resource)));
        } else {
            compared.extend(["changed", "out_of_sync"]);
        }
        self.counters.retain(|name, _| compared.contains(&name.as_str()));
        self
    }
}

/// Compares all cases, and tells all that differ.
fn compare(cases: &[Case]) {
    if !machines::are_possible() {
        println!(
            "LEFT OUT: catalogs compared with Puppet, which needs root, mount namespaces, puppet with its modules, and ruby"
        );
        return;
    }
    let mut different = Vec::new();
    for (part, some) in cases.chunks(AT_A_TIME).enumerate() {
        for (case, (ours, theirs)) in some.iter().zip(machines::apply(some)) {
            let told = differences(ours, theirs);
            if !told.is_empty() {
                println!(
                    "{}:{told}\n{}\n{:?} {:?}\n{:?} {:?}\n",
                    case.name, case.catalog, case.tags, case.skip_tags, case.before, case.lines
                );
                different.push(case.name.as_str());
            }
        }
        if cases.len() > AT_A_TIME {
            println!("{} of {} compared", part * AT_A_TIME + some.len(), cases.len());
        }
    }
    assert!(different.is_empty(), "{} of {} differ: {different:?}", different.len(), cases.len());
}

fn differences((ours, our_files): machines::Done, (theirs, their_files): machines::Done) -> String {
    let mut told = String::new();
    for (run, (ours, theirs)) in ours.into_iter().zip(theirs).enumerate() {
        let (ours, theirs) = (ours.comparable(), theirs.comparable());
        if ours != theirs {
            write!(told, "\n run {run}\n  ours   {ours:?}\n  theirs {theirs:?}").unwrap();
        }
    }
    let names: BTreeSet<&String> = our_files.keys().chain(their_files.keys()).collect();
    for name in names {
        let [ours, theirs] = [&our_files, &their_files].map(|files| files.get(name));
        if ours != theirs {
            let text = |file: Option<&(Option<Vec<u8>>, u32, u32, u32)>| match file {
                Some((content, mode, user, group)) => {
                    let content = content.as_ref().map(|content| String::from_utf8_lossy(content).into_owned());
                    format!("{mode:o} {user}:{group} {content:?}")
                }
                None => "absent".to_owned(),
            };
            write!(told, "\n {name}\n  ours   {}\n  theirs {}", text(ours), text(theirs)).unwrap();
        }
    }
    told
}

/// Makes a catalog of resources, each with the containers that hold it, innermost last.
fn catalog(resources: &[(Json, &[&str])]) -> Json {
    let mut edges = BTreeSet::new();
    let mut all = vec![
        json!({"type": "Stage", "title": "main", "parameters": {"name": "main"}, "tags": ["stage"], "kind": "compilable_type"}),
        json!({"type": "Class", "title": "main", "parameters": {"name": "main"}, "tags": ["class"], "kind": "unknown"}),
    ];
    edges.insert(("Stage[main]".to_owned(), "Class[main]".to_owned()));
    for (resource, holders) in resources {
        let text = |name: &str| resource[name].as_str().unwrap();
        let reference = format!("{}[{}]", text("type"), text("title"));
        let holder = match (holders.last(), text("type")) {
            (Some(holder), _) => (*holder).to_owned(),
            (None, "Class") => "Stage[main]".to_owned(),
            (None, _) => "Class[main]".to_owned(),
        };
        edges.insert((holder, reference));
        all.push(resource.clone());
    }
    let edges: Vec<Json> = edges.into_iter().map(|(source, target)| json!({"source": source, "target": target})).collect();
    json!({"name": "n1.test", "version": 1, "catalog_format": 2, "environment": "production", "classes": [], "tags": [],
        "resources": all, "edges": edges})
}

fn resource(resource_type: &str, title: &str, parameters: Json) -> Json {
    let kind = match resource_type {
        "Class" => "class",
        "Group::Of" => "defined_type",
        _ => "compilable_type",
    };
    json!({"type": resource_type, "title": title, "parameters": parameters, "tags": [resource_type.to_lowercase()], "kind": kind,
        "exported": false})
}

#[test]
fn metaparameters_and_relationships() {
    let deferred = json!({"__ptype": "Deferred", "name": "join", "arguments": [["a", "b"], "-"]});
    let case = Case {
        name: "metaparameters".to_owned(),
        before: Vec::new(),
        lines: Vec::new(),
        tags: Vec::new(),
        skip_tags: Vec::new(),
        catalog: catalog(&[
            (resource("Class", "A", json!({})), &[]),
            (resource("Class", "B", json!({"require": "Class[A]"})), &[]),
            (resource("Notify", "in b", json!({})), &["Class[B]"]),
            (resource("File", "/mnt/z", json!({"ensure": "directory", "mode": "0755"})), &["Class[A]"]),
            (resource("File", "/mnt/z/a", json!({"content": "hello\n", "mode": "0640", "audit": ["mode"]})), &["Class[A]"]),
            (resource("File", "named", json!({"path": "/mnt/z/s", "content": "hush", "mode": "0600"})), &["Class[A]"]),
            (resource("Exec", "fail", json!({"command": "/bin/false", "alias": "broken"})), &[]),
            (resource("File", "/mnt/z/never", json!({"content": "x", "require": "Exec[broken]"})), &[]),
            (resource("Notify", "after never", json!({"require": "File[/mnt/z/never]"})), &[]),
            (resource("Exec", "one", json!({"command": "/bin/true", "refreshonly": true, "subscribe": "File[/mnt/z/s]"})), &[]),
            (resource("Exec", "two", json!({"command": "/bin/true", "refreshonly": true, "subscribe": "Exec[one]"})), &[]),
            (resource("Exec", "class", json!({"command": "/bin/true", "refreshonly": true, "subscribe": "Class[A]"})), &[]),
            (resource("Notify", "noop", json!({"noop": true})), &[]),
            (resource("Notify", "deferred", json!({"message": deferred, "loglevel": "warning"})), &[]),
            (resource("Schedule", "off", json!({"period": "never"})), &[]),
            (resource("Schedule", "once", json!({"period": "daily"})), &[]),
            (resource("Notify", "never", json!({"schedule": "off"})), &[]),
            (resource("Notify", "once a day", json!({"schedule": "once"})), &[]),
            (resource("Notify", "after the end", json!({"require": "Notify[never]"})), &[]),
        ]),
    };
    // News reaches others through a container that was asked for, and through no other.
    let tagged = |mut resource: Json, tag: &str| {
        resource["tags"].as_array_mut().unwrap().push(json!(tag));
        resource
    };
    let command = |subscribed: &str| json!({"command": "/bin/true", "refreshonly": true, "subscribe": subscribed});
    let tags = Case {
        name: "tags".to_owned(),
        before: Vec::new(),
        lines: Vec::new(),
        tags: vec!["one".to_owned()],
        skip_tags: Vec::new(),
        catalog: catalog(&[
            (resource("Class", "A", json!({})), &[]),
            (tagged(resource("Class", "B", json!({})), "one"), &[]),
            (tagged(resource("File", "/mnt/a", json!({"content": "a"})), "one"), &["Class[A]"]),
            (tagged(resource("File", "/mnt/b", json!({"content": "b"})), "one"), &["Class[B]"]),
            (tagged(resource("Exec", "of a", command("Class[A]")), "one"), &[]),
            (tagged(resource("Exec", "of b", command("Class[B]")), "one"), &[]),
        ]),
    };
    compare(&[case, tags]);
}

/// Sources at a web server that tells checksums, times, both or none, refuses HEAD, or is not there.
#[test]
fn files_of_a_web_server() {
    let base = web::serve();
    let url = |path: &str| json!(format!("{base}/{path}"));
    let case = Case {
        name: "web".to_owned(),
        before: vec![
            ("drifted".to_owned(), Before::File("drift", 0o600)),
            ("same".to_owned(), Before::File(web::CONTENT, 0o640)),
            ("newer".to_owned(), Before::File("newer than its source", 0o644)),
        ],
        lines: Vec::new(),
        tags: Vec::new(),
        skip_tags: Vec::new(),
        catalog: catalog(&[
            (resource("File", "/mnt/md5", json!({"source": url("md5"), "mode": "0640"})), &[]),
            (resource("File", "/mnt/same", json!({"source": url("sha256")})), &[]),
            (resource("File", "/mnt/drifted", json!({"source": url("sha256"), "mode": "0644"})), &[]),
            (resource("File", "/mnt/old", json!({"source": url("old")})), &[]),
            (resource("File", "/mnt/newer", json!({"source": url("old")})), &[]),
            (resource("File", "/mnt/second", json!({"source": [url("none"), url("get-only")]})), &[]),
            (resource("File", "/mnt/moved", json!({"source": url("moved")})), &[]),
            (resource("File", "/mnt/forged", json!({"source": url("forged")})), &[]),
            (resource("File", "/mnt/none", json!({"source": url("none")})), &[]),
            (resource("File", "/mnt/after", json!({"content": "x", "require": "File[/mnt/none]"})), &[]),
            (resource("File", "/mnt/down", json!({"source": "http://127.0.0.1:1/x"})), &[]),
        ]),
    };
    compare(&[case]);
}

/// The long campaign: `CAMPAIGN=long cargo test -p direct-puppet-agent --test puppet_apply -- --nocapture`, some three seconds for each catalog;
/// `CATALOGS=1000` makes it longer, `FIRST=301` begins with another one. In `/dev/shm` Puppet keeps no state between runs.
#[test]
fn random_catalogs() {
    #[expect(clippy::disallowed_methods, reason = "the size of a campaign comes from the environment")]
    let given = |name: &str| std::env::var(name).ok();
    let number = |name: &str, usual: u64| given(name).map_or(usual, |text| text.parse().unwrap());
    let is_long = given("CAMPAIGN").is_some_and(|size| size == "long");
    let first = number("FIRST", 1);
    let count = number("CATALOGS", if is_long { SEEDS } else { FEW });
    let cases: Vec<Case> = (first..first + count).map(random::case).collect();
    compare(&cases);
}

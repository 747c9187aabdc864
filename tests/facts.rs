//! Facts beside those of the real Facter on the same machine: same names, same types, same values, but for what
//! `interop/DIFFERENCES.md` lists.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use direct_puppet_agent::facts::ExternalFacts;
use direct_puppet_agent::system::{RealSystem, System as _};
use direct_puppet_tests::binaries::{binaries, json, run};
use serde_json::Value;

/// What changes from one moment to the next: name and type must agree. `*` stands for one part of the name.
const VOLATILE: [&str; 8] = [
    "load_averages *",
    "memory * available|available_bytes|capacity|used|used_bytes",
    "mountpoints * available|available_bytes|capacity|used|used_bytes",
    "networking interfaces * operational_state|speed|duplex",
    "processors speed",
    "system_uptime days|hours|seconds|uptime",
    "disks * size|size_bytes",
    "partitions * size|size_bytes",
];

/// What is meant to differ in value.
const DIFFERENT: [&str; 4] = ["processors isa", "processors extensions", "virtual", "is_virtual"];

/// What an older Facter, or one that may not read something, does not have.
const ONLY_OURS: [&str; 6] = [
    "processors extensions",
    "networking interfaces * operational_state|physical|speed|duplex",
    "virtual|is_virtual",
    "system_uptime",
    "hypervisors",
    "hypervisors docker|kvm",
];

/// What only Facter has.
const ONLY_FACTERS: [&str; 12] = [
    "augeas",
    "facterversion",
    "ruby",
    "aio_agent_version",
    "az_metadata|cloud|ec2_metadata|ec2_userdata|gce",
    "xen|zfs_featurenumbers|zfs_version|zpool_featureflags|zpool_version",
    "disks * serial|wwn",
    "partitions * filesystem|label|partlabel|parttype|partuuid|uuid",
    "mountpoints * available|available_bytes|capacity|size|size_bytes|used|used_bytes",
    "hypervisors vmware|virtualbox *",
    "networking domain",
    "os distro",
];

fn is_listed(list: &[&str], path: &[String]) -> bool {
    let is_one_of = |words: &str, part: &String| words == "*" || words.split('|').any(|word| word == part);
    list.iter()
        .map(|pattern| pattern.split(' ').collect::<Vec<_>>())
        .any(|pattern| pattern.len() == path.len() && pattern.iter().zip(path).all(|(words, part)| is_one_of(words, part)))
}

/// Collects where two values differ.
fn compare(path: &mut Vec<String>, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    let mut differ = |what: String| found.push(format!("{}: {what}", path.join(" ")));
    match (ours, theirs) {
        _ if is_listed(&DIFFERENT, path) => {}
        (Value::Object(ours), Value::Object(theirs)) => {
            for name in ours.keys().chain(theirs.keys().filter(|name| !ours.contains_key(*name))) {
                path.push(name.clone());
                match (ours.get(name), theirs.get(name)) {
                    (Some(ours), Some(theirs)) => compare(path, ours, theirs, found),
                    (Some(ours), None) if !is_listed(&ONLY_OURS, path) => {
                        found.push(format!("{}: only we have {ours}", path.join(" ")));
                    }
                    (None, Some(theirs)) if !is_listed(&ONLY_FACTERS, path) => {
                        found.push(format!("{}: only Facter has {theirs}", path.join(" ")));
                    }
                    _ => {}
                }
                path.pop();
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                path.push(at.to_string());
                compare(path, ours, theirs, found);
                path.pop();
            }
        }
        _ if kind(ours) != kind(theirs) => differ(format!("we have {ours}, Facter {theirs}: another type")),
        _ if ours != theirs && !is_listed(&VOLATILE, path) => differ(format!("we have {ours}, Facter {theirs}")),
        _ => {}
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "hash",
    }
}

/// Returns Facter with these arguments, if it is installed.
fn facter(arguments: &[&str]) -> Option<Command> {
    if Command::new("facter").arg("--version").output().is_err() {
        println!("LEFT OUT: the comparison with Facter, which is not installed; install facter and run this again");
        return None;
    }
    let mut command = Command::new("facter");
    command.args(arguments);
    Some(command)
}

fn ours(dirs: &[&Path]) -> Value {
    let dirs = dirs.iter().map(|dir| dir.to_path_buf()).collect();
    let external_facts = ExternalFacts { dirs, usual_dirs: false, ..ExternalFacts::default() };
    let facts = RealSystem { external_facts, extra_facts: BTreeMap::new() }.facts().unwrap();
    serde_json::to_value(facts).unwrap()
}

#[test]
fn the_same_facts_as_facter() {
    let Some(facter) = facter(&["--no-external-facts", "--no-custom-facts", "--json"]) else { return };
    let theirs = json(&run(facter));
    println!("compared with Facter {}", theirs["facterversion"]);
    let mut found = Vec::new();
    compare(&mut Vec::new(), &ours(&[]), &theirs, &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_differs_is_documented() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/DIFFERENCES.md")).unwrap();
    let (_, section) = text.split_once("\n## Facts\n").unwrap();
    for pattern in DIFFERENT.iter().chain(&ONLY_OURS).chain(&ONLY_FACTERS) {
        for name in pattern.rsplit(' ').find(|words| *words != "*").unwrap().split('|') {
            assert!(section.contains(&format!("`{name}`")) || section.contains(&format!(".{name}`")), "{name} is not documented");
        }
    }
}

#[test]
fn the_comparison_sees_differences() {
    let ours = serde_json::json!({"a": 1, "load_averages": {"1m": 1.0}, "os": {"name": "x", "b": ["y"]}});
    let theirs = serde_json::json!({"a": "1", "load_averages": {"1m": 2}, "os": {"name": "z", "b": []}, "more": 1, "ruby": {}});
    let mut found = Vec::new();
    compare(&mut Vec::new(), &ours, &theirs, &mut found);
    let names: Vec<&str> = found.iter().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["a", "load_averages 1m", "os b", "os name", "more"], "{found:#?}");
}

#[test]
fn the_verb_prints_as_facter_does() {
    let queries: [&[&str]; 9] = [
        &["kernel"],
        &["os.release.major"],
        &["os"],
        &["identity"],
        &["processors.models"],
        &["is_not_known"],
        &["os.name.is_not_known"],
        &["kernel", "is_not_known", "os.release", "fips_enabled"],
        &["filesystems", "identity.uid"],
    ];
    for names in queries {
        let mut command = Command::new(&binaries().agent);
        command.arg("facts").args(names);
        let printed = run(command);
        assert_eq!(printed.status.code(), Some(0), "{names:?}");
        let mut command = Command::new(&binaries().agent);
        command.args(["facts", "--json"]).args(names);
        let as_json = run(command);
        let Some(facter_text) = facter(names) else { return };
        assert_eq!(String::from_utf8_lossy(&printed.stdout), String::from_utf8_lossy(&run(facter_text).stdout), "{names:?}");
        assert_eq!(json(&as_json), json(&run(facter(&[&["--json"], names].concat()).unwrap())), "{names:?}");
    }
}

#[test]
fn external_facts_as_facter_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    for (path, content, mode) in [
        (first.join("a.txt"), "role=web\nUPPER= x = y \nno line\ndotted.name=1\nkernel=own\n", 0o644),
        (first.join("b.txt"), "role=later\n", 0o644),
        (first.join("c.json"), "{\"j\": {\"k\": [1, 2.5, true, null, \"s\"]}, \"empty\": null}", 0o644),
        (first.join("d.yaml"), "y:\n  - a\n  - B: 1\nday: 2020-01-01\nswitch: yes\nmode: 0644\nn: 12\nv: 1.10\n", 0o644),
        (first.join("e.sh"), "#!/bin/sh\necho said=1\nexit 3\n", 0o755),
        (first.join("f"), "#!/bin/sh\necho '{\"of_json\": {\"n\": 1}}'\n", 0o755),
        (first.join("g.yml"), "passed: over\n", 0o644),
        (first.join("h.exe"), "#!/bin/sh\necho passed=over\n", 0o755),
        (first.join("bad.json"), "{", 0o644),
        (second.join("a.txt"), "role=second\nother=2\nos=own\n", 0o644),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let names = [
        "role",
        "upper",
        "UPPER",
        "dotted.name",
        "kernel",
        "j.k.1",
        "empty",
        "y",
        "day",
        "switch",
        "mode",
        "n",
        "v",
        "said",
        "of_json",
        "passed",
        "other",
        "os",
        "site",
    ];
    let mut command = Command::new(&binaries().agent);
    command.current_dir(dir.path()).args(["facts", "--json", "--external-dir", "first", "--external-dir"]).arg(&second);
    command.args(names).env("FACTER_site", "of the environment").env("FACTER_other", "3");
    let ours = run(command);
    assert_eq!(ours.status.code(), Some(0));
    let stderr = String::from_utf8_lossy(&ours.stderr).into_owned();
    assert!(stderr.contains("bad.json") && stderr.contains("not valid JSON"), "{stderr}");
    let ours = json(&ours);
    assert_eq!((&ours["role"], &ours["other"], &ours["site"]), (&"later".into(), &"3".into(), &"of the environment".into()));
    let Some(mut facter) = facter(&["--json", "--external-dir"]) else { return };
    facter.arg(&first).arg("--external-dir").arg(&second).args(names);
    let theirs = json(&run({
        facter.env("FACTER_site", "of the environment").env("FACTER_other", "3");
        facter
    }));
    assert_eq!(ours, theirs);
}

#[test]
fn directories_in_the_configuration_and_facts_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("own.txt"), "role=web\nsite=a\n").unwrap();
    let more = dir.path().join("more.json");
    fs::write(&more, "{\"site\": {\"name\": \"b\"}}").unwrap();
    let config = dir.path().join("agent.toml");
    fs::write(&config, format!("external_dir = [{:?}]\n", dir.path())).unwrap();
    let mut command = Command::new(&binaries().agent);
    command.args(["facts", "--config"]).arg(&config).arg("--facts").arg(&more).args(["role", "site.name"]);
    let output = run(command);
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
        (Some(0), "role => web\nsite.name => b\n")
    );
    fs::write(&more, "[").unwrap();
    let mut command = Command::new(&binaries().agent);
    command.args(["facts", "--json", "--facts"]).arg(&more);
    let output = run(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(json(&output)["error"].as_str().unwrap().contains("more.json"));
}

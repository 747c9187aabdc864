//! The shape of reports, beside one that Puppet's agent sent, and as Ruby reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use direct_puppet_transport::protocol::report::{Event, EventStatus, Log, LogLevel, Place, ResourceStatus};
use direct_puppet_transport::protocol::{Catalog, Environment, Report, RunStatus};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::report::{ReportParts, build, own_log};

/// What Puppet's agent sent of its first run, cut down to some resources and logs.
const CAPTURED: &str = include_str!("../../tests/data/captured/report-shape.json");

fn event(resource: &str, property: &'static str, status: EventStatus) -> Event {
    Event {
        resource: resource.to_owned(),
        property: property.into(),
        previous_value: "absent".into(),
        desired_value: "file".into(),
        message: "created".into(),
        status,
        corrective_change: true,
        redacted: false,
        loglevel: None,
        time_unix_nanos: 1_700_000_000_000_000_001,
    }
}

/// A title with everything that could break YAML.
const ODD: &str = "a: \"b\" 'c' # \\ \u{e4}\u{1b}[2J\n\t- \u{85}\u{2028}{x} [y]";

fn report() -> Report {
    let place = Arc::new(Place {
        containers: ["Stage[main]", "Class[Web]", "Web::Site[a]"].map(str::to_owned).to_vec(),
        tags: vec!["class".to_owned(), "web".to_owned()],
    });
    let status = |resource: String, events: Vec<Event>| ResourceStatus {
        file: Some("/etc/code/site.pp".to_owned()),
        line: Some(7),
        out_of_sync: true,
        changed: true,
        corrective_change: true,
        place: Some(Arc::clone(&place)),
        evaluation: Duration::from_millis(12),
        began_unix_nanos: 1_700_000_000_000_000_000,
        resource,
        events,
        ..ResourceStatus::default()
    };
    let long = format!("Exec[{}]", "x".repeat(3000));
    let odd = format!("Notify[{ODD}]");
    let mut parts = ReportParts::for_tests();
    parts.given.version = Some("1795351223".to_owned());
    parts.given.code_id = Some("0d912f".to_owned());
    let catalog = Catalog {
        format: 1,
        certname: "n1".parse().unwrap(),
        environment: Environment::default(),
        classes: Vec::new(),
        resources: Vec::new(),
        edges: Vec::new(),
    };
    parts.catalog_id = Some(catalog.encode().unwrap().0);
    parts.status = RunStatus::Changed;
    parts.completed = true;
    parts.statuses = vec![
        status(
            "File[/a]".to_owned(),
            vec![event("File[/a]", "ensure", EventStatus::Success), event("File[/a]", "", EventStatus::Success)],
        ),
        status(long.clone(), vec![event(&long, "returns", EventStatus::Noop)]),
        status(odd.clone(), vec![event(&odd, "message", EventStatus::Audit)]),
        ResourceStatus { failed: true, changed: false, ..status("File[/b]".to_owned(), Vec::new()) },
    ];
    let later = 1_700_000_000_000_000_002;
    parts.logs = vec![
        Log {
            level: "err".to_owned(),
            message: "look at /b: not allowed".to_owned(),
            source: "/Stage[main]/Web/Web::Site[a]/File[/b]".to_owned(),
            time_unix_nanos: later,
        },
        own_log(LogLevel::Warning, "something else".to_owned(), later),
    ];
    build(parts)
}

/// Collects the keys of a document: names of resources are all the same, and so are members of lists.
fn keys(json: &Json, at: &str, found: &mut BTreeSet<String>) {
    match json {
        Json::Object(map) => {
            for (key, value) in map {
                let key = if at.ends_with("resource_statuses") { "*" } else { key };
                let path = format!("{at}.{key}");
                found.insert(path.clone());
                keys(value, &path, found);
            }
        }
        Json::Array(items) => items.iter().for_each(|item| keys(item, at, found)),
        _ => {}
    }
}

fn keys_of(json: &Json) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(json, "", &mut found);
    found
}

#[test]
fn every_key_of_puppets_report_is_there() {
    let theirs = keys_of(&serde_json::from_str(CAPTURED).unwrap());
    let ours = keys_of(&serde_json::to_value(PuppetReport(&report())).unwrap());
    assert_eq!(theirs.difference(&ours).collect::<Vec<_>>(), Vec::<&String>::new());
    let more: BTreeSet<&str> = ours.difference(&theirs).map(String::as_str).collect();
    let known = [".catalog_id", ".time_unix_nanos", ".version", ".metrics.scan", ".metrics.wire"];
    assert!(more.iter().all(|key| known.iter().any(|known| key.starts_with(known))), "{more:?}");
}

#[test]
fn values_have_puppets_shapes() {
    let json = serde_json::to_value(PuppetReport(&report())).unwrap();
    assert_eq!(json["configuration_version"], json!(1_795_351_223));
    assert_eq!(json["transaction_uuid"], json!("00000000-0000-0000-0000-000000000000"));
    assert_eq!(json["noop_pending"], json!(true));
    let status = &json["resource_statuses"]["File[/a]"];
    assert_eq!(status["containment_path"], json!(["Stage[main]", "Web", "Web::Site[a]", "File[/a]"]));
    assert_eq!((&status["change_count"], &status["title"], &status["evaluation_time"]), (&json!(2), &json!("/a"), &json!(0.012)));
    assert_eq!(status["events"][0]["name"], json!("file_created"));
    assert_eq!(status["events"][0]["message"], json!("created (corrective)"));
    assert_eq!((&status["events"][1]["property"], &status["events"][1]["name"]), (&json!(null), &json!("refresh")));
    let audit = &json["resource_statuses"][format!("Notify[{ODD}]")]["events"][0];
    assert_eq!(
        (&audit["audited"], &audit["desired_value"], &audit["historical_value"]),
        (&json!(true), &json!(null), &json!("file"))
    );
    assert_eq!(json["metrics"]["resources"]["values"][3], json!(["failed_to_restart", "Failed to restart", 0]));
    assert!(
        json["metrics"]["time"]["values"].as_array().unwrap().iter().all(|value| value[2].is_f64()),
        "{}",
        json["metrics"]["time"]
    );
}

#[test]
fn lines_are_those_of_puppet() {
    let report = report();
    let shown: Vec<String> = lines(&report)
        .filter(|line| line.status.is_none_or(|status| status.resource.starts_with("File")))
        .map(|line| format!("{:?} {} {}", line.level, line.source, line.message))
        .collect();
    assert_eq!(
        shown,
        [
            "Info Puppet Applying configuration version '1795351223'",
            "Notice /Stage[main]/Web/Web::Site[a]/File[/a]/ensure created (corrective)",
            "Notice /Stage[main]/Web/Web::Site[a]/File[/a] created (corrective)",
            "Err /Stage[main]/Web/Web::Site[a]/File[/b] look at /b: not allowed",
            "Warning Puppet something else",
        ]
    );
}

#[test]
fn what_is_no_event_stands_where_it_was_said_at_its_own_level() {
    let mut report = report();
    report.status = RunStatus::Failed;
    let failed = Event { message: "change from 'a' to 'b' failed: no".into(), ..event("File[/b]", "mode", EventStatus::Failure) };
    let quiet = Event {
        loglevel: Some(LogLevel::Debug),
        time_unix_nanos: 1_700_000_000_000_000_003,
        ..event("File[/b]", "owner", EventStatus::Success)
    };
    let place = report.resource_statuses[0].place.clone();
    report.resource_statuses = vec![ResourceStatus {
        failed: true,
        resource: "File[/b]".to_owned(),
        line: Some(3),
        events: vec![failed, quiet],
        place,
        ..Default::default()
    }];
    let at = report.resource_statuses[0].events[0].time_unix_nanos;
    let path = "/Stage[main]/Web/Web::Site[a]/File[/b]";
    let log = |level: &str, source: &str, message: &str, time_unix_nanos| Log {
        level: level.to_owned(),
        message: message.to_owned(),
        source: source.to_owned(),
        time_unix_nanos,
    };
    report.logs = vec![
        log("warning", path, "later", at + 1),
        log("notice", &format!("{path}/content"), "\n--- /b\n", at),
        log("warning", "Direct Puppet", "first", at - 1),
    ];
    let shown =
        |line: &Line<'_>| format!("{:?} {} {} {:?}", line.level, line.source, line.message, line.status.and_then(|of| of.line));
    let told: Vec<String> = lines(&report).skip(1).map(|line| shown(&line)).collect();
    assert_eq!(
        told,
        [
            "Warning Puppet first None".to_owned(),
            format!("Notice {path}/content \n--- /b\n Some(3)"),
            format!("Err {path}/mode change from 'a' to 'b' failed: no (corrective) Some(3)"),
            format!("Warning {path} later Some(3)"),
            format!("Debug {path}/owner created (corrective) Some(3)"),
        ]
    );
    assert!(lines(&report).nth(2).is_some_and(|line| line.is_diff()));
    let json = serde_json::to_value(PuppetReport(&report)).unwrap();
    let levels: Vec<&Json> = json["logs"].as_array().unwrap().iter().map(|log| &log["level"]).collect();
    assert_eq!(levels, ["info", "warning", "notice", "err", "warning"], "not those for finding faults");
}

/// Whether Ruby's reader takes text for a float: its own pattern, less what only people write.
fn is_float_of_ruby(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (number, exponent) = text.split_once('e').map_or((text, None), |(number, exponent)| (number, Some(exponent)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    number.split_once('.').is_some_and(|(whole, part)| digits(whole) && digits(part))
        && exponent.is_none_or(|exponent| exponent.strip_prefix(['-', '+']).is_some_and(digits))
}

fn yaml_of(value: f64) -> String {
    let mut text = Vec::new();
    yaml::write(&value, &mut text).unwrap();
    String::from_utf8(text).unwrap().trim().to_owned()
}

#[test]
fn small_and_large_floats_are_numbers_to_ruby() {
    assert_eq!(yaml_of(9e-6), "9.0e-06");
    assert_eq!(yaml_of(1.25e-7), "1.25e-07");
    assert_eq!(yaml_of(-1e20), "-1.0e+20");
    assert_eq!(yaml_of(0.012), "0.012");
}

proptest! {
    #[test]
    fn every_float_is_a_number_to_ruby_and_the_same(value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL | proptest::num::f64::ZERO) {
        let text = yaml_of(value);
        prop_assert!(is_float_of_ruby(&text), "{}", text);
        prop_assert_eq!(text.parse::<f64>().unwrap(), value);
    }
}

/// Loads YAML as Puppet does, and prints its data as JSON.
const RUBY: &str = "
    require 'puppet'
    require 'json'
    text = File.read(ARGV[0])
    report = Puppet::Util::Yaml.safe_load(text, [Puppet::Transaction::Report, Symbol, Time])
    raise report.class.name unless report.is_a?(Puppet::Transaction::Report)
    puts JSON.generate(report.to_data_hash)";

#[test]
fn ruby_loads_the_yaml_as_a_report_of_puppets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("last_run_report.yaml");
    let report = report();
    let mut text = Vec::new();
    PuppetReport(&report).write_yaml(&mut text).unwrap();
    std::fs::write(&file, &text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("--- !ruby/object:Puppet::Transaction::Report\nhost: n1\n"), "{text}");
    assert!(text.contains("\nstatus: changed\n") && text.contains("\nconfiguration_version: 1795351223\n"), "{text}");
    let Ok(output) = Command::new("ruby").args(["-e", RUBY]).arg(&file).output() else {
        println!("LEFT OUT: loading the report in Ruby, which needs ruby and puppet");
        return;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("cannot load such file -- puppet") {
        println!("LEFT OUT: loading the report in Ruby, which needs puppet");
        return;
    }
    assert!(output.status.success(), "{error}\n{text}");
    let read: BTreeMap<String, Json> = serde_json::from_slice(&output.stdout).unwrap();
    let ours = serde_json::to_value(PuppetReport(&report)).unwrap();
    for key in
        ["host", "status", "environment", "metrics", "resource_statuses", "logs", "corrective_change", "catalog_uuid", "code_id"]
    {
        assert_eq!(read[key], ours[key], "{key}");
    }
}

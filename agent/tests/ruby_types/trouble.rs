//! What goes wrong: types that hang, end the process, talk, and tell secrets; and Ruby that is not there or may not be used.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use direct_puppet_agent::provider::ruby::RubyOptions;
use direct_puppet_agent::{Outcome, RunOptions};
use direct_puppet_transport::protocol::RunStatus;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::theirs::{Ran, catalog, is_possible, resource, secret};
use super::{apply, options, own_library};

/// How long a resource may take here: Ruby must have started and loaded the library within it.
const LIMIT: Duration = Duration::from_secs(8);

fn odd(title: &str, parameters: Json) -> Json {
    resource("Dpt_odd", title, parameters)
}

async fn run(dir: &TempDir, resources: &[Json], run: RunOptions) -> Outcome {
    let ruby = options(&[own_library()], &dir.path().join("ruby"));
    apply(&dir.path().join("state"), Some(ruby), &catalog(resources), run).await
}

/// Returns whether a process is there and has not ended.
fn is_running(pid: &Path) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(fs::read_to_string(pid).unwrap().trim()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

fn message<'a>(ran: &'a Ran, resource: &str) -> &'a str {
    &ran.events.iter().find(|event| event.0 == resource).unwrap_or_else(|| panic!("{resource}: {ran:?}")).5
}

#[tokio::test]
async fn a_type_that_ends_the_process_fails_alone() {
    if !is_possible("types in Ruby that end their process") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let ends = format!("exit! {}", pid.display());
    let titles = ["raise", "no error", "exit", "flood", &ends, "plain", "core", "crash", "fork", "last"];
    let mut resources: Vec<Json> = titles.iter().map(|title| odd(title, json!({"strict": true}))).collect();
    resources.push(resource("Notify", "after", json!({"require": format!("Dpt_odd[{ends}]")})));
    let began = Instant::now();
    let outcome = run(&dir, &resources, RunOptions::default()).await;
    // What a type has forked held the pipe open, and nobody waited for it.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    let ran = Ran::of(&outcome);
    let failed: Vec<String> =
        ["raise", "no error", "exit", &ends, "crash", "fork"].map(|title| format!("Dpt_odd[{title}]")).to_vec();
    assert_eq!(ran.failed, failed.into_iter().collect(), "{:?}", outcome.messages);
    assert_eq!(ran.skipped, ["Notify[after]".to_owned()].into());
    assert_eq!(message(&ran, "Dpt_odd[raise]"), "change from 'even' to 'odd' failed: it does not like to");
    assert_eq!(message(&ran, "Dpt_odd[no error]"), "change from 'even' to 'odd' failed: nobody wrote this");
    assert_eq!(message(&ran, "Dpt_odd[plain]"), "state changed 'even' to 'odd'");
    assert_eq!(message(&ran, "Dpt_odd[core]"), "state changed 'even' to 'odd'");
    assert_eq!(message(&ran, "Dpt_odd[flood]"), "state changed 'even' to 'odd'");
    assert!(message(&ran, "Dpt_odd[exit]").contains("it called exit"), "{ran:?}");
    assert!(message(&ran, &format!("Dpt_odd[{ends}]")).contains("Ruby ended (exit status: 3)"), "{ran:?}");
    assert!(message(&ran, "Dpt_odd[crash]").contains("Ruby ended (signal: 9 (SIGKILL))"), "{ran:?}");
    // The first, and one after each end.
    assert_eq!(outcome.ruby_started, 4);
    assert!(!is_running(&pid));
}

#[tokio::test]
async fn what_takes_too_long_is_killed_with_all_that_it_started() {
    if !is_possible("types in Ruby that take too long") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let child = format!("child {}", pid.display());
    let resources = [odd(&child, json!({})), odd("hang", json!({})), odd("last", json!({}))];
    let limited = RunOptions { resource_time_limit: Some(LIMIT), ..RunOptions::default() };
    let outcome = run(&dir, &resources, limited).await;
    let ran = Ran::of(&outcome);
    assert_eq!(ran.failed, [format!("Dpt_odd[{child}]"), "Dpt_odd[hang]".to_owned()].into(), "{:?}", outcome.messages);
    assert!(message(&ran, "Dpt_odd[hang]").contains("took longer than 8s"), "{ran:?}");
    assert_eq!(message(&ran, "Dpt_odd[last]"), "state changed 'even' to 'odd'");
    assert_eq!(outcome.ruby_started, 3);
    assert!(!is_running(&pid), "what the type had started still runs");
    // The run's limit does the same, after the time that what is in work has to come to its end.
    let short = RunOptions { time_limit: Some(LIMIT), ..RunOptions::default() };
    let began = Instant::now();
    let outcome = run(&dir, &resources[..1], short).await;
    assert!(began.elapsed() < 2 * LIMIT + Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(outcome.status, RunStatus::Failed);
    assert!(!is_running(&pid), "what the type had started still runs");
}

#[tokio::test]
async fn secrets_are_told_nowhere() {
    if !is_possible("secrets of types in Ruby") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hush = |title: &str| secret(odd(title, json!({"password": "trespassing", "state": "even"})), &["password"]);
    let outcome = run(&dir, &[hush("quiet"), hush("tells")], RunOptions::default()).await;
    let ran = Ran::of(&outcome);
    assert_eq!(message(&ran, "Dpt_odd[quiet]"), "changed [redacted] to [redacted]");
    assert_eq!(message(&ran, "Dpt_odd[tells]"), "change from [redacted] to [redacted] failed: [redacted]");
    assert!(!serde_json::to_string(&outcome).unwrap().contains("trespassing"));
    for (name, (content, _)) in super::files(&dir.path().join("state")) {
        assert!(!content.contains("trespassing") || name.contains("catalog"), "{name}");
    }
}

#[tokio::test]
async fn parameters_are_refused_in_the_words_of_puppet() {
    if !is_possible("parameters that types in Ruby refuse") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let level = |title: &str, parameters: Json| resource("Dpt_level", title, parameters);
    let store = |name: &str| dir.path().join(name).display().to_string();
    let resources = [
        level("words", json!({"store": store("a"), "value": "a lot"})),
        level("parameter", json!({"store": store("a"), "depth": 1})),
        level("full", json!({"ensure": "present", "store": store("b"), "value": 14})),
        odd("binary", json!({})),
        level("good", json!({"ensure": "present", "store": store("c"), "value": 1, "require": "Dpt_unknown[x]"})),
        resource("Dpt_unknown", "x", json!({})),
        level("well", json!({"ensure": "present", "store": store("d"), "value": 1})),
    ];
    let outcome = run(&dir, &resources, RunOptions::default()).await;
    let ran = Ran::of(&outcome);
    let told = outcome.messages.join("\n");
    let failed = ["Dpt_level[words]", "Dpt_level[parameter]", "Dpt_level[full]", "Dpt_odd[binary]", "Dpt_unknown[x]"];
    assert_eq!(ran.failed, failed.map(str::to_owned).into(), "{told}");
    assert_eq!(ran.skipped, ["Dpt_level[good]".to_owned()].into());
    for said in [
        "Parameter value failed on Dpt_level[words]: Value must be a whole number, not a lot (file: /site.pp, line: 7)",
        "Dpt_level[parameter]: no parameter named 'depth'",
        "Dpt_odd[binary]: Could not evaluate: \u{fffd}\u{fffd} is no text",
        "knows no type Dpt_unknown either: looked in ",
        "Dpt_unknown[x] (/site.pp:7) cannot be managed: there is no type Dpt_unknown here",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }
    // What was not flushed was not made.
    assert_eq!(message(&ran, "Dpt_level[full]"), "change from 'absent' to 'present' failed: the disk is full of water");
    assert_eq!(message(&ran, "Dpt_level[well]"), "created");
}

#[tokio::test]
async fn audited_properties_are_compared_with_the_last_run() {
    if !is_possible("audit of types in Ruby") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let resources = [resource("Dpt_level", "sea", json!({"store": store.display().to_string(), "audit": ["value", "marks"]}))];
    fs::write(&store, r#"{"value":3,"marks":["a"]}"#).unwrap();
    assert_eq!(Ran::of(&run(&dir, &resources, RunOptions::default()).await).events, []);
    fs::write(&store, r#"{"value":4,"marks":["a"]}"#).unwrap();
    let ran = Ran::of(&run(&dir, &resources, RunOptions::default()).await);
    assert_eq!(message(&ran, "Dpt_level[sea]"), "audit change: previously recorded value '3' has been changed to '4'");
    assert_eq!(ran.events.len(), 1);
}

/// A program in the place of Ruby that takes down that it was started, and says something.
fn pretended(dir: &Path, says: &str) -> RubyOptions {
    let program = dir.join("pretended");
    fs::write(&program, format!("#!/bin/sh\necho started >> {}\n{says}\n", dir.join("started").display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = RubyOptions::default();
    options.program = Some(program);
    options
}

#[tokio::test]
async fn a_catalog_without_such_types_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ruby = pretended(dir.path(), "exit 1");
    let resources = [
        resource("File", &dir.path().join("a").display().to_string(), json!({"content": "x"})),
        resource("Notify", "n", json!({})),
    ];
    let outcome = apply(&dir.path().join("state"), Some(ruby.clone()), &catalog(&resources), RunOptions::default()).await;
    assert_eq!((outcome.status, outcome.ruby_started), (RunStatus::Changed, 0));
    assert!(!dir.path().join("started").exists());
    // The same, when what would be in Ruby is no resource but a container.
    let mut held = resource("Some::Define", "x", json!({}));
    held["kind"] = "defined_type".into();
    let outcome = apply(&dir.path().join("state"), Some(ruby.clone()), &catalog(&[held]), RunOptions::default()).await;
    assert_eq!((outcome.ruby_started, dir.path().join("started").exists()), (0, false));
    // It would be seen.
    let outcome = apply(&dir.path().join("state"), Some(ruby), &catalog(&[odd("x", json!({}))]), RunOptions::default()).await;
    assert_eq!((outcome.ruby_started, dir.path().join("started").exists()), (1, true));
}

#[tokio::test]
async fn without_ruby_or_its_library_such_resources_fail_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let resources =
        [odd("x", json!({})), resource("Notify", "after", json!({"require": "Dpt_odd[x]"})), resource("Notify", "n", json!({}))];
    let mut nowhere = RubyOptions::default();
    nowhere.program = Some("/nonexistent/ruby".into());
    // As Ruby without the library says it.
    let missing = pretended(dir.path(), r#"printf '\000\000\000\017{"missing":"x"}'"#);
    let mut told = Vec::new();
    for (number, ruby) in [None, Some(nowhere), Some(missing)].into_iter().enumerate() {
        let state = dir.path().join(format!("state{number}"));
        let outcome = apply(&state, ruby, &catalog(&resources), RunOptions::default()).await;
        let ran = Ran::of(&outcome);
        assert_eq!((ran.failed, ran.skipped), (["Dpt_odd[x]".to_owned()].into(), ["Notify[after]".to_owned()].into()));
        assert_eq!(outcome.ruby_started, u64::from(number == 2));
        told.push(outcome.messages);
    }
    assert!(
        told[0][0].starts_with("Dpt_odd[x] (/site.pp:7) cannot be managed: there is no type Dpt_odd here, there are "),
        "{told:?}"
    );
    assert!(told.iter().all(|messages| *messages == told[0]), "{told:?}");
}

#[tokio::test]
async fn what_anybody_may_write_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join("lib");
    fs::create_dir(&library).unwrap();
    fs::set_permissions(&library, fs::Permissions::from_mode(0o777)).unwrap();
    let mut ruby = pretended(dir.path(), "exit 1");
    ruby.libraries = vec![library.clone()];
    assert!(ruby.check().unwrap_err().to_string().contains("anybody may write to it"));
    let outcome =
        apply(&dir.path().join("state"), Some(ruby.clone()), &catalog(&[odd("x", json!({}))]), RunOptions::default()).await;
    assert!(!dir.path().join("started").exists());
    let said = format!("types in Ruby are left out: {}: anybody may write to it", library.display());
    assert!(outcome.messages[0].starts_with(&said), "{:?}", outcome.messages);
    fs::set_permissions(&library, fs::Permissions::from_mode(0o755)).unwrap();
    ruby.check().unwrap();
    fs::set_permissions(dir.path().join("pretended"), fs::Permissions::from_mode(0o757)).unwrap();
    assert!(ruby.check().unwrap_err().to_string().contains("pretended: anybody may write to it"));
}

//! Programs that answer well, badly, and not at all.

use std::process::Command;

use super::*;
use crate::apply::error_chain;
use crate::provider::file::tests::World;

/// A program that is a shell script.
fn program(dir: &Path, script: &str) -> ExecutableProvider {
    let path = dir.join("level");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    ExecutableProvider::new("Level", path)
}

fn level(value: impl Into<Value>) -> Resource {
    Resource::new("Level", "water").with("value", value)
}

#[tokio::test]
async fn the_example_manages_levels() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("LEFT OUT: the example in Python, which needs python3");
        return;
    }
    let world = World::new();
    world.mkdir("/var/lib");
    let it = ExecutableProvider::new("Level", concat!(env!("CARGO_MANIFEST_DIR"), "/examples/providers/level.py"));
    assert_eq!(world.converge_by(&it, &level(7)).await.unwrap(), ["defined 'value' as '7'"]);
    assert_eq!(world.read("/var/lib/level-water"), "7\n");
    assert_eq!(world.converge_by(&it, &level(7)).await.unwrap(), [""; 0]);
    assert_eq!(world.converge_by(&it, &level(8)).await.unwrap(), ["value changed '7' to '8'"]);
    let error = world.converge_by(&it, &level("deep")).await.unwrap_err();
    assert_eq!(error, "Level[water]: parameter value: must be a whole number");
    assert!(!it.refresh(&world.context(), &Arc::new(level(8))).await.unwrap());
}

#[tokio::test]
async fn what_it_is_asked() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let log = dir.path().join("log");
    let script = format!(
        "cat >> {0}; echo >> {0}\necho '{{\"changes\": [{{\"property\": \"ensure\", \"previous\": \"absent\", \"desired\": \"here\"}}]}}'",
        log.display()
    );
    let it = program(dir.path(), &script);
    let secret = Value::Sensitive(Box::new("hunter2".into()));
    let resource = Arc::new(level(vec![Value::from(1), Value::Binary(vec![255])]).with("key", secret));
    let checked = it.check(&world.context(), &resource).await.unwrap();
    assert_eq!(checked.changes[0].wording.as_ref().unwrap().done, "created");
    it.apply(&world.context(), &resource, &checked.changes).await.unwrap();
    let text = std::fs::read_to_string(log).unwrap();
    let asked: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let root = world.context().root().path().display().to_string();
    let mut check = serde_json::json!({
        "version": 1, "call": "check", "type": "Level", "title": "water",
        "parameters": { "value": [1, "/w=="], "key": "hunter2" }, "secret": ["key"], "root": root, "noop": false,
    });
    assert_eq!(asked[0], check);
    check["call"] = "apply".into();
    check["changes"] = serde_json::json!([{ "property": "ensure", "previous": "absent", "desired": "here" }]);
    assert_eq!(asked[1], check);
}

#[tokio::test]
async fn bad_answers_fail_the_resource() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    for (script, words) in [
        ("echo '{\"error\": \"the pump is off\"}'", "the pump is off"),
        ("echo '{\"error\": \"no\", \"parameter\": \"value\"}'", "parameter value: no"),
        ("echo '{}'; echo broken >&2; exit 3", "exit status: 3: broken"),
        ("echo 'no json'", "its answer"),
        ("echo '{\"changes\": []} x'", "its answer"),
        ("echo '{\"chnages\": []}'", "unknown field"),
        ("echo '{\"changes\": [{\"property\": 1}]}'", "its answer"),
        ("true", "its answer"),
        ("head -c 2000000 /dev/zero", "more than 1048576 bytes"),
        ("trap '' TERM; (sleep 60) & sleep 60", "took longer than"),
    ] {
        let it = program(dir.path(), script).with_time_limit(Duration::from_millis(500));
        let error = error_chain(&it.check(&world.context(), &Arc::new(level(1))).await.unwrap_err());
        assert!(error.contains(words) && error.contains("Level[water]"), "{script}: {error}");
    }
    let missing = ExecutableProvider::new("Level", "/nonexistent/level");
    let error = error_chain(&missing.check(&world.context(), &Arc::new(level(1))).await.unwrap_err());
    assert!(error.contains("could not run /nonexistent/level"), "{error}");
}

#[tokio::test]
async fn failures_are_by_property() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let context = world.context();
    let resource = Arc::new(level(1));
    let changes = "{\"changes\": [{\"property\": \"a\", \"previous\": \"1\", \"desired\": \"2\", \"message\": \"a is two\"}, \
        {\"property\": \"b\", \"previous\": \"1\", \"desired\": \"2\", \"secret\": true}]}";
    let checked = program(dir.path(), &format!("echo '{changes}'")).check(&context, &resource).await.unwrap();
    let done: Vec<&str> = checked.changes.iter().map(|change| change.wording.as_ref().unwrap().done.as_str()).collect();
    assert_eq!(done, ["a is two", "changed [redacted] to [redacted]"]);
    let failing = program(dir.path(), "echo '{\"failures\": {\"b\": \"stuck\"}}'");
    let applied = failing.apply(&context, &resource, &checked.changes).await.unwrap();
    assert_eq!(applied.failures, [(1, "stuck".to_owned())].into());
    let odd = program(dir.path(), "echo '{\"failures\": {\"c\": \"stuck\"}}'");
    assert!(error_chain(&odd.apply(&context, &resource, &checked.changes).await.unwrap_err()).contains("not to be changed"));
    let refreshing = program(dir.path(), "echo '{\"refreshed\": true}'");
    assert!(refreshing.refresh(&context, &resource).await.unwrap());
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let secret = || Arc::new(level(Value::Sensitive(Box::new("hunter2".into()))));
    let tells = "{\"changes\": [{\"property\": \"value\", \"previous\": \"hunter1\", \"desired\": \"hunter2\", \"message\": \"hunter2\"}]}";
    let checked = program(dir.path(), &format!("echo '{tells}'")).check(&world.context(), &secret()).await.unwrap();
    assert!(!format!("{checked:?}").contains("hunter"), "{checked:?}");
    for script in ["echo '{\"error\": \"hunter2\"}'", "cat >&2; exit 1", "echo '{\"hunter2\": 1}'"] {
        let error = error_chain(&program(dir.path(), script).check(&world.context(), &secret()).await.unwrap_err());
        assert!(!error.contains("hunter"), "{script}: {error}");
    }
}

#[test]
fn programs_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let add = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    for (name, mode) in [("level.py", 0o755), ("apt__key", 0o700), ("README.md", 0o644), (".hidden", 0o755)] {
        add(name, mode);
    }
    let found = ExecutableProvider::in_directory(dir.path()).unwrap();
    let types: Vec<&str> = found.iter().map(Provider::resource_type).collect();
    assert_eq!(types, ["Apt::Key", "Level"]);
    for (name, mode, words) in [("level", 0o755, "manages Level too"), ("Level2", 0o755, "name"), ("open", 0o757, "anybody")] {
        let path = add(name, mode);
        let error = ExecutableProvider::in_directory(dir.path()).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
        std::fs::remove_file(path).unwrap();
    }
    assert!(ExecutableProvider::in_directory(&dir.path().join("none")).is_err());
}

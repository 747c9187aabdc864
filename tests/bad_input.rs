//! Wrong input to the real programs: a clear error that names the thing, the documented exit code, nothing half done.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "bad_input/reports.rs"]
mod reports;
#[path = "bad_input/staging.rs"]
mod staging;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::site::Site;
use tempfile::TempDir;

struct Case {
    dir: TempDir,
    site: Site,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::new(&dir.path().join("site"));
        fs::create_dir_all(dir.path().join("root")).unwrap();
        Self { dir, site }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    /// A site of these resources of class `base`, in YAML.
    fn resources(&self, resources: &str) {
        let indented: String = resources.lines().map(|line| format!("    {line}\n")).collect();
        self.site.manifest(&format!("nodes: [{{ match: \"*\", classes: [base] }}]\nclasses:\n  base:\n{indented}"));
    }

    fn apply(&self) -> Output {
        self.apply_with(&[])
    }

    fn apply_with(&self, options: &[&str]) -> Output {
        let site = self.site.dir().to_string_lossy().into_owned();
        run(binaries().agent(&self.root(), &[&["apply", &site], options].concat()))
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that a run did not happen, and that its error names everything in `names`.
fn assert_refused(output: &Output, names: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for name in names {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert_eq!(json(output)["status"], "failed");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn catalogs_that_cannot_be_applied() {
    for (resources, names) in [
        (
            "- file: /a\n  content: x\n  require: File[/b]\n- file: /b\n  content: x\n  require: File[/a]",
            &["cycle", "File[/a]", "File[/b]"][..],
        ),
        ("- file: /a\n  content: x\n- file: one\n  path: /a\n  content: other", &["/a is managed twice", "File[one]"]),
        ("- file: /a\n  content: x\n  before: File[/nope]", &["File[/nope]", "not in the catalog"]),
    ] {
        let case = Case::new();
        case.resources(resources);
        let output = case.apply();
        assert_refused(&output, names);
        assert!(!case.root().join("a").exists() && !case.root().join("b").exists(), "{resources}");
    }
}

#[test]
fn resources_that_cannot_be_managed_fail_alone_unless_told_otherwise() {
    for (resources, names) in [
        ("- file: /a/../../etc/passwd\n  content: x", &["..", "File[/a/../../etc/passwd]"][..]),
        ("- file: relative\n  content: x", &["relative", "absolute"]),
        ("- file: \"/a\\0b\"\n  content: x", &["NUL"]),
        ("- file: /a\n  ensure: sideways", &["File[/a]", "ensure", "must be present, absent"]),
        ("- file: /a\n  contnet: x", &["File[/a]", "contnet"]),
        ("- file: /a\n  content: x\n  mode: \"0999\"", &["File[/a]", "mode", "0999"]),
        ("- frobnicate: /a", &["Frobnicate[/a]", "there is no type Frobnicate"]),
    ] {
        let case = Case::new();
        case.resources(&format!("- file: /good\n  content: x\n{resources}"));
        let refused = case.apply_with(&["--strict-types"]);
        assert_refused(&refused, names);
        assert!(!case.root().join("good").exists(), "{resources}");
        let output = case.apply();
        let text = json(&output)["messages"].to_string();
        assert_eq!(output.status.code(), Some(6), "{text}");
        for name in names {
            assert!(text.contains(name), "{name} in {text}");
        }
        assert!(case.root().join("good").exists() && !case.root().join("a").exists(), "{resources}");
    }
}

#[test]
fn code_that_does_not_compile_is_refused_and_what_is_live_stays() {
    let case = Case::new();
    let data = case.dir.path().join("data");
    let server = |verb: &str| {
        let mut command = Command::new(&binaries().server);
        command.arg(verb).arg("--data").arg(&data).arg("--json");
        if verb == "publish" {
            command.arg("--staging").arg(case.site.dir());
        }
        run(command)
    };
    case.resources("- file: /a\n  content: x");
    let good = json(&server("publish"))["environments"][0]["code_id"].clone();
    for (text, place) in [
        ("nodes: []\nclasses:\n  base:\n    - file: [\n", "site.yaml:"),
        ("nodes: []\nclases: {}\n", "site.yaml:"),
        ("nodes: [{ match: \"*\", classes: [nope] }]\nclasses: {}\n", "nope"),
    ] {
        case.site.manifest(text);
        let output = server("publish");
        assert_eq!(output.status.code(), Some(1));
        let result = json(&output)["environments"][0].clone();
        assert_eq!((&result["code_id"], &result["changed"], &result["error"]["code"]), (&good, &false.into(), &"compile".into()));
        let message = result["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(place), "{message}");
    }
    // A template with a mistake says which line.
    case.resources("- file: /a\n  template: app/t.j2");
    let templates = case.site.environment().join("modules/app/templates");
    fs::create_dir_all(&templates).unwrap();
    fs::write(templates.join("t.j2"), "fine\n{% if %}\n").unwrap();
    let message = json(&server("publish"))["environments"][0]["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("modules/app/templates/t.j2:2"), "{message}");
    assert_eq!(json(&server("versions")).as_array().unwrap().len(), 1);
}

#[test]
fn things_in_the_way() {
    let case = Case::new();
    case.resources("- file: /a\n  content: new\n- file: /b\n  content: new");
    // A directory where a file should be: that file fails, the other is made, and the directory is as it was.
    fs::create_dir_all(case.root().join("a/inside")).unwrap();
    let output = case.apply();
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    let outcome = json(&output);
    assert_eq!(
        (&outcome["status"], &outcome["resources"]["failed"], &outcome["resources"]["changed"]),
        (&"failed".into(), &1.into(), &1.into())
    );
    assert!(outcome["messages"].to_string().contains("directory"), "{}", outcome["messages"]);
    assert!(case.root().join("a/inside").is_dir());
    assert_eq!(fs::read_to_string(case.root().join("b")).unwrap(), "new");
}

#[test]
fn a_link_on_the_way_is_not_followed() {
    let case = Case::new();
    let outside = case.dir.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    symlink(&outside, case.root().join("etc")).unwrap();
    case.resources("- file: /etc/passwd\n  content: evil");
    let output = case.apply();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let messages = json(&output)["messages"].to_string();
    assert!(messages.contains("link") && messages.contains("passwd"), "{messages}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_link_planted_while_applying_is_not_followed() {
    let case = Case::new();
    let (outside, victim) = (case.dir.path().join("outside"), case.root().join("srv/tree/d01"));
    fs::create_dir_all(&outside).unwrap();
    case.site.fill(400, "one");
    assert_eq!(case.apply().status.code(), Some(2));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let swaps = std::thread::scope(|scope| {
        let racer = scope.spawn(|| {
            let (link, mut swaps) = (case.dir.path().join("link"), 0_u64);
            symlink(&outside, &link).unwrap();
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let exchanged = rustix::fs::renameat_with(rustix::fs::CWD, &link, rustix::fs::CWD, &victim, flags);
                swaps += u64::from(exchanged.is_ok());
            }
            // Leave the directory where it belongs.
            if victim.is_symlink() {
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, &link, rustix::fs::CWD, &victim, flags);
            }
            swaps
        });
        for version in 0..6 {
            case.site.fill(400, &format!("v{version}"));
            drop(case.apply());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        racer.join().unwrap()
    });
    assert!(swaps > 100, "the race was not run: {swaps} swaps");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was written through a link");
    assert!(matches!(case.apply().status.code(), Some(0 | 2)));
}

#[test]
fn a_target_that_may_not_be_written() {
    let case = Case::new();
    case.resources("- file: /dir/a\n  content: new");
    let dir = case.root().join("dir");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a"), "old").unwrap();
    if is_root() {
        let chattr = |flag: &str| {
            Command::new("chattr").arg(flag).arg(dir.join("a")).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        };
        if !chattr("+i") {
            println!("LEFT OUT: the immutable target needs chattr and a file system that knows the flag");
            return;
        }
        let output = case.apply();
        assert!(chattr("-i"));
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        let messages = json(&output)["messages"].to_string();
        assert!(messages.contains("chattr -i") && messages.contains("dir/a"), "{messages}");
    } else {
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
        let output = case.apply();
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        assert!(json(&output)["messages"].to_string().contains("permission denied"));
    }
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "old");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "something was left behind");
    assert_eq!(case.apply().status.code(), Some(2));
}

/// A small file system of its own; `None` where it cannot be made.
fn mount_tmpfs(at: &Path, options: &str) -> bool {
    is_root()
        && Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(at)
            .status()
            .is_ok_and(|status| status.success())
}

#[test]
fn a_full_disk_and_a_read_only_one() {
    let case = Case::new();
    let full = case.root().join("srv/tree");
    fs::create_dir_all(&full).unwrap();
    if !mount_tmpfs(&full, "size=1m") {
        println!("LEFT OUT: the full and the read-only disk need root, to mount a small file system");
        return;
    }
    let unmount = || assert!(Command::new("umount").arg(&full).status().unwrap().success());
    case.site.fill(10, "one");
    assert_eq!(case.apply().status.code(), Some(2));
    let old = direct_puppet_tests::site::files(&full);

    fs::write(case.site.tree().join("big"), vec![7; 4 << 20]).unwrap();
    let output = case.apply();
    let (messages, found) = (json(&output)["messages"].to_string(), direct_puppet_tests::site::files(&full));
    assert!(matches!(output.status.code(), Some(4 | 6)), "{}", stderr(&output));
    assert!(messages.contains("free space") && messages.contains("big"), "{messages}");
    assert_eq!(found, old, "something was lost or left behind");

    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&full).status().unwrap().success());
    case.site.fill(10, "two");
    fs::remove_file(case.site.tree().join("big")).unwrap();
    let output = case.apply();
    let (messages, found) = (json(&output)["messages"].to_string(), direct_puppet_tests::site::files(&full));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(messages.contains("read-only"), "{messages}");
    assert_eq!(found, old);
    unmount();
}

#[test]
fn no_server() {
    let case = Case::new();
    let output = run(binaries().agent(&case.root(), &["run", "--server", "http://127.0.0.1:9"]));
    assert_refused(&output, &["127.0.0.1:9", "connect"]);
    for (url, names) in
        [("gopher://x", &["http:", "unix:"][..]), ("", &["server"]), ("unix:/nonexistent/socket", &["/nonexistent/socket"])]
    {
        assert_refused(&run(binaries().agent(&case.root(), &["run", "--server", url])), names);
    }
    assert_refused(&run(binaries().agent(&case.root(), &["run"])), &["--server"]);
}

#[test]
fn wrong_arguments() {
    let case = Case::new();
    assert_refused(&run(binaries().agent(&case.root(), &["apply", "/nonexistent"])), &["/nonexistent"]);
    assert_refused(
        &run(binaries().agent(Path::new("/nonexistent/root"), &["apply", &case.site.dir().to_string_lossy()])),
        &["/nonexistent/root"],
    );
    assert_refused(&run(binaries().agent(&case.root(), &["verify"])), &["no catalog"]);
    assert_refused(&run(binaries().agent(&case.root(), &["undo"])), &["nothing to undo"]);
    let config = case.dir.path().join("config.toml");
    fs::write(&config, "sever = \"https://x\"\n").unwrap();
    let output = run(binaries().agent(&case.root(), &["status", "--config", &config.to_string_lossy()]));
    assert_refused(&output, &["sever", "config.toml"]);
    let unknown = run(binaries().agent(&case.root(), &["frobnicate"]));
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn a_disabled_agent_says_why() {
    let case = Case::new();
    case.resources("- file: /a\n  content: x");
    assert_eq!(run(binaries().agent(&case.root(), &["disable", "until the audit is over"])).status.code(), Some(0));
    assert_refused(&case.apply(), &["disabled", "until the audit is over", "enable"]);
    assert!(!case.root().join("a").exists());
    assert_eq!(run(binaries().agent(&case.root(), &["enable"])).status.code(), Some(0));
    assert_eq!(case.apply().status.code(), Some(2));
}

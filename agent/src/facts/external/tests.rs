use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use direct_puppet_transport::protocol::Value;

use super::*;
use crate::facts::testing::{Scratch, json};

/// Directories of external facts.
struct Dirs(Scratch);

impl Dirs {
    fn new(files: &[(&str, &str)]) -> Self {
        Self(Scratch::new(files))
    }

    fn script(&self, path: &str, body: &str) {
        self.0.write(path, &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(self.0.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn gather(&self, dirs: &[&str]) -> Facts {
        let dirs = dirs.iter().map(|dir| self.0.path(dir)).collect();
        let external = ExternalFacts { dirs, usual_dirs: false, time_limit: Duration::from_millis(500) };
        external.gather(0, &Environment::default())
    }
}

fn facts(text: &str) -> Facts {
    let Value::Hash(facts) = json(text) else { panic!("not a hash") };
    facts
}

#[test]
fn every_format() {
    let dirs = Dirs::new(&[
        ("/a/a.txt", "# a comment\nrole=web\nUPPER = x = y \n=none\nempty=\nno line\ndotted.name=1\n"),
        ("/a/b.json", "{\"j\": {\"k\": [1, 2.5, true, null, \"s\"]}, \"nothing\": null}"),
        ("/a/c.YAML", "y:\n  - a\n  - B: 1\nday: 2020-01-01\nat: 2020-01-01 10:00:00\nmode: 0644\nswitch: yes\n"),
        ("/a/d.yml", "passed: over\n"),
        ("/a/e", "passed=over\n"),
        ("/a/.hidden.txt", "passed=over\n"),
        ("/a/f.exe", "passed=over\n"),
    ]);
    dirs.script("/a/g", "echo said=1; echo warning >&2; exit 3");
    dirs.script("/a/h.sh", "echo '{\"of_json\": {\"n\": 1}}'");
    dirs.script("/a/i.py", "printf 'of_yaml:\\n  - 1\\n'");
    dirs.script("/a/j.exe", "echo passed=over");
    dirs.script("/a/k.txt", "echo kept as text=1");
    dirs.script("/a/l", ":");
    dirs.0.make_dir("/a/m.d");
    let expected = r#"{"role": "web", "upper ": " x = y ", "dotted.name": "1", "j": {"k": [1, 2.5, true, null, "s"]},
        "y": ["a", {"B": 1}], "day": "2020-01-01", "at": "2020-01-01 10:00:00", "mode": 420, "switch": true, "said": "1", "of_json": {"n": 1}, "of_yaml": [1],
        "echo kept as text": "1"}"#;
    assert_eq!(dirs.gather(&["/a"]), facts(expected));
}

#[test]
fn later_names_and_earlier_directories_win() {
    let dirs = Dirs::new(&[("/a/1.txt", "x=1\ny=1\n"), ("/a/2.txt", "x=2\n"), ("/b/9.txt", "x=9\ny=9\nz=9\n")]);
    assert_eq!(dirs.gather(&["/a", "/b", "/none"]), facts(r#"{"x": "2", "y": "1", "z": "9"}"#));
}

#[test]
fn usual_directories() {
    let external = ExternalFacts { dirs: vec!["/own".into()], ..ExternalFacts::default() };
    assert_eq!(external.all_dirs(0, None), ["/own"].iter().chain(&SYSTEM_DIRS).map(PathBuf::from).collect::<Vec<_>>());
    let of_ann = external.all_dirs(1000, Some(Path::new("/home/ann")));
    assert_eq!(of_ann, ["/own", "/home/ann/.facter/facts.d", "/home/ann/.puppetlabs/opt/facter/facts.d"].map(PathBuf::from));
    assert_eq!(external.all_dirs(1000, None), [PathBuf::from("/own")]);
}

#[test]
fn what_is_wrong_with_one_file_leaves_the_others() {
    let dirs = Dirs::new(&[
        ("/a/bad.json", "{"),
        ("/a/list.json", "[1]"),
        ("/a/bad.yaml", "k: ["),
        ("/a/word.yaml", "word"),
        ("/a/twice.yaml", "a: 1\na: 2\n"),
        ("/a/empty.yaml", ""),
        ("/a/long.txt", &format!("long={}\n", "x".repeat(MAX_EXTERNAL_BYTES))),
        ("/a/bytes.txt", "ok\u{fffd}=1\n"),
        ("/a/zz.txt", "good=1\n"),
    ]);
    dirs.0.make_dir("/a/dir.yaml");
    dirs.0.link("/a/gone.json", "nowhere");
    dirs.0.link("/a/gone", "nowhere");
    dirs.script("/a/words", "echo neither this nor that");
    dirs.0.write("/a/nonsense", "\u{7f}ELF");
    fs::set_permissions(dirs.0.path("/a/nonsense"), fs::Permissions::from_mode(0o755)).unwrap();
    // Nobody writes to it: whoever opened it would wait for ever.
    rustix::fs::mknodat(rustix::fs::CWD, dirs.0.path("/a/pipe.txt"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(dirs.gather(&["/a"]), facts(r#"{"good": "1", "ok\ufffd": "1"}"#));
}

#[test]
fn executables_that_do_not_end_flood_or_fork() {
    let dirs = Dirs::new(&[("/a/zz.txt", "good=1\n")]);
    let left = dirs.0.path("/left");
    dirs.script("/a/hang", "trap '' TERM; echo hang=1; sleep 60 & wait");
    dirs.script("/a/flood", "echo flood=1; exec cat /dev/zero");
    dirs.script("/a/flood_stderr", "echo stderr=1; head -c 1000000 /dev/zero >&2");
    dirs.script("/a/fork", &format!("echo fork=1; (while :; do date > '{}'; sleep 0.05; done) & exit 0", left.display()));
    dirs.script("/a/signal", "echo signal=1; kill -9 $$");
    let started = Instant::now();
    assert_eq!(dirs.gather(&["/a"]), facts(r#"{"good": "1", "fork": "1", "stderr": "1"}"#));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    // What was forked was killed: what it writes to does not come again.
    drop(fs::remove_file(&left));
    std::thread::sleep(Duration::from_millis(200));
    assert!(!left.exists());
}

#[test]
fn an_executable_that_asks_for_facts_is_not_run_again() {
    let dirs = Dirs::new(&[]);
    dirs.script("/a/x", "echo inside=$INSIDE_FACTER; echo lang=$LC_ALL; echo cwd=$(pwd)");
    assert_eq!(dirs.gather(&["/a"]), facts(r#"{"inside": "true", "lang": "C", "cwd": "/"}"#));
    let external = ExternalFacts { dirs: vec![dirs.0.path("/a")], usual_dirs: false, ..ExternalFacts::default() };
    let inside = Environment { inside_facter: true, ..Environment::default() };
    assert_eq!(external.gather(0, &inside), Facts::new());
}

#[test]
fn secrets_and_sizes_of_yaml_are_bounded() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, of) in ('b'..='k').zip('a'..) {
        bomb += &format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 10].join(", "));
    }
    assert!(matches!(parse::yaml(&bomb), Err(ExternalError::Yaml(_))));
    let deep = format!("a: {}", "[".repeat(100_000));
    assert!(matches!(parse::yaml(&deep), Err(ExternalError::Yaml(_))));
    assert!(matches!(parse::json(&"[".repeat(100_000)), Err(ExternalError::Json(_))));
}

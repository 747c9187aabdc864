//! kill -9 of the real programs at many points of apply and publish: old or new everywhere, the next run converges, no
//! temporary file stays behind. `CAMPAIGN=long` makes 200 points of each, else 20.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use direct_puppet_tests::binaries::{binaries, json, run};
use direct_puppet_tests::campaign;
use direct_puppet_tests::site::{Site, body, files};

const FILES: usize = 300;

/// Kills that were tried, and those that hit a living process.
#[derive(Debug, Default)]
struct Kills {
    fired: usize,
    missed: usize,
}

impl Kills {
    /// Kills `child` at a point of its life, from 0 to 1 of `whole`, unless it has ended before; then `whole` was too long.
    fn at(&mut self, point: usize, mut child: Child, whole: &mut Duration) {
        // In an order that does not depend on the machine's speed today.
        let delay = whole.mul_f64(((point * 37) % 100) as f64 / 100.0);
        let missed = self.missed;
        self.after(&mut child, delay);
        *whole = whole.mul_f64(if self.missed > missed { 0.9 } else { 1.02 });
    }

    fn after(&mut self, child: &mut Child, delay: Duration) {
        let until = Instant::now() + delay;
        while Instant::now() < until {
            if child.try_wait().unwrap().is_some() {
                self.missed += 1;
                return;
            }
            // Not a wait for something to happen: the moment of the kill is the thing tested.
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().unwrap();
        // A process that ended by itself between the look and the kill has an exit code.
        if child.wait().unwrap().code().is_none() { self.fired += 1 } else { self.missed += 1 }
    }
}

fn quiet(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Asserts that each file is wholly of one of `versions`, or absent if `may_lack`.
fn assert_whole(tree: &Path, versions: &[&str], may_lack: bool) {
    let found = files(tree);
    for number in 0..FILES {
        let path = PathBuf::from(format!("d{:02}/file{number:05}", number % 16));
        match found.get(&path) {
            None => assert!(may_lack, "{} is gone", path.display()),
            Some(content) => {
                let is_whole = versions.iter().any(|version| content == body(number, version).as_bytes());
                assert!(is_whole, "{} is torn: {} bytes", path.display(), content.len());
            }
        }
    }
}

/// Names below `dir` that look like something temporary.
fn litter(dir: &Path) -> Vec<PathBuf> {
    let is_temporary = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(".direct-puppet") || name.ends_with(".partial") || name.ends_with(".new") || name.ends_with(".tmp")
    };
    files(dir).into_keys().filter(is_temporary).collect()
}

#[test]
fn an_agent_killed_anywhere_leaves_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    let (site, root) = (Site::new(&dir.path().join("site")), dir.path().join("root"));
    std::fs::create_dir_all(&root).unwrap();
    site.fill(FILES, "v0");
    let apply = || binaries().agent(&root, &["apply", &site.dir().to_string_lossy()]);
    // Built before the clock starts.
    let _ = binaries();
    let begun = Instant::now();
    assert_eq!(run(apply()).status.code(), Some(2));
    let mut whole = begun.elapsed();

    let points = campaign(200);
    let mut kills = Kills::default();
    let mut version = 0;
    let mut attempt = 0;
    while kills.fired < points {
        assert!(attempt < points * 4, "too few kills fire: {kills:?}");
        let (old, new) = (format!("v{version}"), format!("v{}", version + 1));
        site.fill(FILES, &new);
        kills.at(attempt, quiet(&mut apply()), &mut whole);
        attempt += 1;
        assert_whole(&root.join("srv/tree"), &[&old, &new], false);
        let output = run(apply());
        assert!(matches!(output.status.code(), Some(0 | 2)), "{}", String::from_utf8_lossy(&output.stderr));
        assert_whole(&root.join("srv/tree"), &[&new], false);
        assert_eq!(litter(&root), Vec::<PathBuf>::new());
        version += 1;
    }
    let output = run(apply());
    assert_eq!(json(&output)["status"], "unchanged");
    println!("agent: {kills:?} over {whole:?}");
}

#[test]
fn a_server_killed_anywhere_in_publish_keeps_old_or_new() {
    let dir = tempfile::tempdir().unwrap();
    let (site, data) = (Site::new(&dir.path().join("site")), dir.path().join("data"));
    site.fill(FILES, "v0");
    let server = |verb: &str| {
        let mut command = Command::new(&binaries().server);
        command.arg(verb).arg("--data").arg(&data).arg("--json");
        if verb == "publish" {
            command.arg("--staging").arg(site.dir());
        }
        command
    };
    // Built before the clock starts.
    let _ = binaries();
    let begun = Instant::now();
    let first = run(server("publish"));
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let mut whole = begun.elapsed();
    let code_id = |output: &std::process::Output| json(output)["environments"][0]["code_id"].as_str().unwrap().to_owned();
    let mut live = code_id(&first);

    let points = campaign(200);
    let mut kills = Kills::default();
    let mut attempt = 0;
    while kills.fired < points {
        assert!(attempt < points * 4, "too few kills fire: {kills:?}");
        site.fill(FILES, &format!("v{}", attempt + 1));
        kills.at(attempt, quiet(&mut server("publish")), &mut whole);
        attempt += 1;
        // Whatever happened, the next publish goes through, and what is live then is what staging holds.
        let output = run(server("publish"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let now = code_id(&output);
        assert_ne!(now, live);
        live = now;
        assert_eq!(litter(&data), Vec::<PathBuf>::new());
    }
    // And a node converges from it.
    let root = dir.path().join("root");
    std::fs::create_dir_all(&root).unwrap();
    let output = run(binaries().agent(&root, &["apply", &site.dir().to_string_lossy()]));
    assert_eq!(output.status.code(), Some(2));
    assert_whole(&root.join("srv/tree"), &[&format!("v{attempt}")], false);
    println!("server: {kills:?} over {whole:?}");
}

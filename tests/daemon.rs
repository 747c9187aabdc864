//! The resident program: news at once, quiet when it cannot use them, and an end when it is told.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use direct_puppet_tests::binaries::{binaries, run};
use direct_puppet_tests::serving::{Serving, terminate};
use direct_puppet_tests::site::{Site, body};

/// How long to wait for what should happen at once.
const PATIENCE: Duration = Duration::from_secs(60);

struct Daemon {
    child: Child,
    errors: tempfile::NamedTempFile,
}

impl Daemon {
    fn start(root: &Path, url: &str) -> Self {
        Self::with(root, url, &[], Stdio::null())
    }

    fn with(root: &Path, url: &str, options: &[&str], out: impl Into<Stdio>) -> Self {
        Self::by(binaries().agent(root, &["daemon", "--server", url]), options, out)
    }

    fn by(mut command: Command, options: &[&str], out: impl Into<Stdio>) -> Self {
        let errors = tempfile::NamedTempFile::new().unwrap();
        command.args(options).stdout(out).stderr(errors.reopen().unwrap());
        Self { child: command.spawn().unwrap(), errors }
    }

    fn stop(mut self) -> usize {
        terminate(&self.child);
        assert!(self.child.wait().unwrap().success(), "the daemon did not stop as it should");
        fs::read_to_string(self.errors.path()).unwrap().lines().count()
    }
}

impl Drop for Daemon {
    /// One that a test gives up is not left behind.
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Mounts for whoever runs in it alone.
const OWN_MOUNTS: [&str; 4] = ["--mount", "--propagation", "private", "--"];

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn news_are_applied_at_once_and_what_cannot_be_is_not_tried_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    site.fill(3, "one");
    let serving = Serving::start(dir.path(), &site);
    assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
    for (number, url) in serving.urls.iter().enumerate() {
        let root = dir.path().join(format!("root{number}"));
        fs::create_dir(&root).unwrap();
        let daemon = Daemon::start(&root, url);
        let has = |version: &str| {
            let text = fs::read_to_string(root.join("srv/tree/d00/file00000")).unwrap_or_default();
            text == body(0, version)
        };
        wait_until("the first run has applied what is live", || has(if number == 0 { "one" } else { "two" }));
        if number == 0 {
            site.fill(3, "two");
            assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
            wait_until("the news are applied", || has("two"));
        }
        // What is disabled does not run, and does not say so a thousand times.
        assert_eq!(run(binaries().agent(&root, &["disable", "maintenance"])).status.code(), Some(0));
        fs::write(site.environment().join("unused.txt"), format!("news {number}")).unwrap();
        assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
        std::thread::sleep(Duration::from_millis(1500));
        let lines = daemon.stop();
        assert!(lines <= 4, "{lines} lines of errors in a second");
    }
}

/// A publish reaches who waits within a second or two, over sockets, with all that is between.
#[test]
fn a_publish_is_applied_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    site.fill(20, "0");
    let serving = Serving::start(dir.path(), &site);
    assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let daemon = Daemon::start(&root, &serving.urls[0]);
    let has = |version: &str| fs::read_to_string(root.join("srv/tree/d00/file00000")).is_ok_and(|text| text == body(0, version));
    wait_until("the first run has applied what is live", || has("0"));
    let mut took: Vec<Duration> = (1..=5)
        .map(|number: u32| {
            let version = number.to_string();
            site.fill(20, &version);
            assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
            let published = Instant::now();
            wait_until("the news are applied", || has(&version));
            published.elapsed()
        })
        .collect();
    took.sort_unstable();
    // A machine that does other work may be late now and then, not mostly.
    assert!(took[took.len() / 2] <= Duration::from_secs(2) && took[took.len() - 1] < Duration::from_secs(20), "{took:?}");
    daemon.stop();
}

#[test]
fn it_ends_at_once_while_it_waits() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::new(&dir.path().join("site"));
    let serving = Serving::start(dir.path(), &site);
    assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let daemon = Daemon::start(&root, &serving.urls[0]);
    wait_until("the first run is over", || root.join("var/lib/direct-puppet/last_run_summary.yaml").exists());
    // The server ends too while check-ins are held, within half of what it would wait for what is under way.
    let begun = Instant::now();
    drop(serving);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < PATIENCE / 2);
    let mut second = Command::new(&binaries().agent);
    second.args(["daemon", "--server", "gopher://nowhere", "--root"]).arg(&root);
    assert_eq!(run(second).status.code(), Some(1));
}

/// A daemon whose runs are waited for, one by one.
struct Runs {
    daemon: Daemon,
    out: tempfile::NamedTempFile,
    seen: usize,
}

impl Runs {
    fn of(root: &Path, url: &str, options: &[&str]) -> Self {
        Self::by(binaries().agent(root, &["daemon", "--server", url]), options)
    }

    fn by(command: Command, options: &[&str]) -> Self {
        let out = tempfile::NamedTempFile::new().unwrap();
        let options = [&["--no-wait"], options].concat();
        let mut runs = Self { daemon: Daemon::by(command, &options, out.reopen().unwrap()), out, seen: 0 };
        runs.next();
        runs
    }

    /// Waits for the end of a run and returns its outcome.
    fn next(&mut self) -> serde_json::Value {
        let all = |path: &Path| -> Vec<serde_json::Value> {
            let text = fs::read_to_string(path).unwrap();
            serde_json::Deserializer::from_str(&text).into_iter().map_while(Result::ok).collect()
        };
        wait_until("a run is over", || all(self.out.path()).len() > self.seen);
        self.seen += 1;
        all(self.out.path()).swap_remove(self.seen - 1)
    }

    /// Has it run and returns how many files were proved by stat and by the kernel's notes, and what the run did.
    fn once_more(&mut self) -> (u64, u64, String) {
        let kill = format!("kill -USR1 {}", self.daemon.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        let outcome = self.next();
        let number = |name: &str| outcome["scan"][name].as_u64().unwrap();
        (number("stat_proved"), number("watch_proved"), outcome["status"].as_str().unwrap().to_owned())
    }

    /// Has it run until everything is settled: what was written a moment ago is not relied upon.
    fn settle(&mut self) {
        std::thread::sleep(Duration::from_millis(300));
        let expected = self.once_more();
        assert_eq!(expected.2, "unchanged");
        // One that writes down what it looked at, one that looks whether that is so and has the kernel note what happens from then on.
        assert_eq!(self.once_more(), (FILES, 0, "unchanged".to_owned()));
    }
}

const FILES: u64 = 20;

/// A site with [`FILES`] files, and where its server listens.
fn served(dir: &Path) -> (Site, Serving) {
    let site = Site::new(&dir.join("site"));
    site.fill(20, "one");
    let serving = Serving::start(dir, &site);
    assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
    fs::create_dir(dir.join("root")).unwrap();
    (site, serving)
}

#[test]
fn between_runs_the_kernel_notes_what_happens() {
    let dir = tempfile::tempdir().unwrap();
    let (site, serving) = served(dir.path());
    let root = dir.path().join("root");
    let mut runs = Runs::of(&root, &serving.urls[0], &[]);
    let by_notes = || (0, FILES, "unchanged".to_owned());
    runs.settle();
    assert_eq!(runs.once_more(), by_notes());
    // What nobody manages, beside it and above it.
    fs::write(root.join("other"), "").unwrap();
    fs::create_dir_all(root.join("etc/x")).unwrap();
    assert_eq!(runs.once_more(), by_notes());
    // Drift of every kind is found, mended, and watched again.
    let file = root.join("srv/tree/d03/file00003");
    let is_whole = || fs::read_to_string(&file).unwrap() == body(3, "one") && !root.join("srv/tree/d03/more").exists();
    let drifts: [&dyn Fn(); 5] = [
        &|| fs::write(&file, "drift").unwrap(),
        &|| fs::remove_file(&file).unwrap(),
        &|| fs::write(root.join("srv/tree/d03/more"), "").unwrap(),
        &|| fs::remove_dir_all(root.join("srv/tree/d03")).unwrap(),
        &|| fs::rename(root.join("srv/tree"), root.join("srv/moved")).unwrap(),
    ];
    for (number, drift) in drifts.iter().enumerate() {
        drift();
        let (by_stat, by_notes_alone, status) = runs.once_more();
        assert_eq!((by_notes_alone, status.as_str()), (0, "changed"), "{number}: {by_stat}");
        assert!(is_whole(), "{number}");
        runs.settle();
        assert_eq!(runs.once_more(), by_notes(), "{number}");
    }
    // Other code is another catalog.
    site.fill(20, "two");
    assert_eq!(serving.verb(&["publish"]).status.code(), Some(0));
    assert_eq!(runs.once_more().2, "changed");
    runs.settle();
    assert_eq!(runs.once_more(), by_notes());
    assert_eq!(runs.daemon.stop(), 0);
}

#[test]
fn everything_is_looked_at_from_time_to_time_and_always_when_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let (_site, serving) = served(dir.path());
    for (options, proved) in [(&["--full-check-seconds", "2"][..], [0, FILES]), (&["--no-watch"], [FILES, 0])] {
        let root = dir.path().join(options[0]);
        fs::create_dir(&root).unwrap();
        let mut runs = Runs::of(&root, &serving.urls[0], options);
        runs.settle();
        assert_eq!(runs.once_more(), (proved[0], proved[1], "unchanged".to_owned()), "{options:?}");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(runs.once_more(), (FILES, 0, "unchanged".to_owned()), "{options:?}");
        assert_eq!(runs.once_more(), (proved[0], proved[1], "unchanged".to_owned()), "{options:?}");
        assert_eq!(runs.daemon.stop(), 0);
    }
}

#[test]
fn what_is_mounted_over_something_is_seen() {
    if !Command::new("unshare").args(OWN_MOUNTS).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("LEFT OUT: mounting needs root, and unshare (Debian package util-linux)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_site, serving) = served(dir.path());
    let root = dir.path().join("root");
    let agent = binaries().agent(&root, &["daemon", "--server", &serving.urls[0]]);
    let mut command = Command::new("unshare");
    command.args(OWN_MOUNTS).arg(agent.get_program()).args(agent.get_args());
    let mut runs = Runs::by(command, &[]);
    runs.settle();
    assert_eq!(runs.once_more(), (0, FILES, "unchanged".to_owned()));
    fs::write(dir.path().join("over"), "mounted").unwrap();
    let file = root.join("srv/tree/d03/file00003");
    let mount = |arguments: &[&std::ffi::OsStr]| {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &runs.daemon.child.id().to_string()]).args(arguments);
        assert!(command.status().unwrap().success());
    };
    mount(&["mount".as_ref(), "--bind".as_ref(), dir.path().join("over").as_os_str(), file.as_os_str()]);
    // It cannot be replaced; what counts is that it is found.
    let (_, by_notes, status) = runs.once_more();
    assert_eq!((by_notes, status.as_str()), (0, "failed"));
    assert_eq!(fs::read_to_string(dir.path().join("over")).unwrap(), "mounted");
    let _ = runs.daemon.stop();
}

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
        let errors = tempfile::NamedTempFile::new().unwrap();
        let mut command = binaries().agent(root, &["daemon", "--server", url]);
        command.stdout(Stdio::null()).stderr(errors.reopen().unwrap());
        Self { child: command.spawn().unwrap(), errors }
    }

    fn stop(mut self) -> usize {
        terminate(&self.child);
        assert!(self.child.wait().unwrap().success(), "the daemon did not stop as it should");
        fs::read_to_string(self.errors.path()).unwrap().lines().count()
    }
}

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

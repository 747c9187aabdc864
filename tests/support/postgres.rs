//! A real PostgreSQL server of one test's own.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::print_stdout, reason = "for tests")]

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A PostgreSQL server with its data in a directory of its own, on a Unix socket; stopped when dropped.
#[derive(Debug)]
pub struct Postgres {
    dir: tempfile::TempDir,
    programs: PathBuf,
    child: Option<Child>,
    options: Vec<String>,
}

/// Returns where the server's programs are: Debian keeps them out of the `PATH`.
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin")).collect();
    versions.sort();
    versions.into_iter().rev().find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
}

/// Returns the user that the server runs as: it refuses to run as root.
fn user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("no user postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

impl Postgres {
    /// Starts one; says so and returns nothing where PostgreSQL is not installed. `options` are settings, as `name=value`.
    #[must_use]
    pub fn start(options: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            println!("LEFT OUT: PostgreSQL is not installed; install postgresql and run this again");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        if let Some((uid, gid)) = user() {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut this = Self { dir, programs, child: None, options: options.iter().map(ToString::to_string).collect() };
        let data = this.data();
        let made = this
            .command("initdb")
            .args(["--auth=trust", "--username=code", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        this.resume();
        Some(this)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        if let Some((uid, gid)) = user() {
            command.uid(uid).gid(gid);
        }
        command.current_dir(self.dir.path());
        command
    }

    /// Returns its URL.
    #[must_use]
    pub fn url(&self) -> String {
        Self::url_in(self.dir.path())
    }

    /// Returns the URL of a server whose socket is in `dir`.
    #[must_use]
    pub fn url_in(dir: &Path) -> String {
        format!("postgres://code@{}/postgres", dir.display().to_string().replace('/', "%2F"))
    }

    /// Returns the directory of its socket and its data.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it again after [`Self::kill`].
    pub fn resume(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.dir.path()).args(["-c", "listen_addresses="]);
        for option in &self.options {
            command.args(["-c", option]);
        }
        let log = fs::File::create(self.dir.path().join("log")).unwrap();
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let begun = Instant::now();
        while !self.sql("SELECT 1").1 {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL did not start: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a statement; returns what it printed and whether it went well.
    #[must_use]
    pub fn sql(&self, text: &str) -> (String, bool) {
        let mut command = self.command("psql");
        command.args(["-X", "-q", "-A", "-t", "-U", "code", "-d", "postgres", "-c", text, "-h"]).arg(self.dir.path());
        let output = command.stdin(Stdio::null()).output().unwrap();
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), output.status.success())
    }

    /// Has tables that are made from now on lie in a directory, which is there and empty.
    pub fn lie_in(&self, dir: &Path) {
        if let Some((uid, gid)) = user() {
            chown(dir, Some(uid), Some(gid)).unwrap();
        }
        for text in
            [&*format!("CREATE TABLESPACE small LOCATION '{}'", dir.display()), "ALTER ROLE code SET default_tablespace = small"]
        {
            let (said, is_done) = self.sql(text);
            assert!(is_done, "{text}: {said}");
        }
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops all of its processes where they are: connections stay, and nobody answers.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Has it go on after [`Self::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        self.signal(signal);
        let own = self.child.as_ref().unwrap().id();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            // What comes after the name, which is in parentheses: the state, then the parent.
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
            if parent == Some(own) {
                // It may have ended since.
                let _sent = Pid::from_raw(pid).map(|pid| rustix::process::kill_process(pid, signal));
            }
        }
    }

    /// Ends it as a crash would: what was committed must be there after [`Self::resume`].
    pub fn kill(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown: no checkpoint, recovery at the next start.
        self.signal(Signal::QUIT);
        self.child.take().unwrap().wait().unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.child.is_some() {
            // One that is frozen would not end.
            self.thaw();
            self.kill();
        }
    }
}

//! The real server program, listening.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests")]

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::binaries::{binaries, run};
use crate::site::Site;

pub use self::pair::{Pair, live, until};

mod pair;

/// A server that listens; stopped with SIGTERM when dropped, which must end it well.
#[derive(Debug)]
pub struct Serving {
    child: Child,
    /// Where it listens, in the order asked for.
    pub urls: Vec<String>,
    data: PathBuf,
    is_killed: bool,
}

impl Serving {
    /// Starts a server on a free port and on a Unix socket.
    #[must_use]
    pub fn start(dir: &Path, site: &Site) -> Self {
        let sockets = dir.join("sockets");
        fs::DirBuilder::new().mode(0o700).create(&sockets).unwrap();
        let socket = format!("unix:{}", sockets.join("agent.sock").display());
        Self::listening(dir, site, &["http://127.0.0.1:0", &socket], &[])
    }

    /// Starts a server that listens there, with more options.
    #[must_use]
    pub fn listening(dir: &Path, site: &Site, urls: &[&str], options: &[OsString]) -> Self {
        let mut all = vec!["--staging".into(), site.dir().into()];
        all.extend_from_slice(options);
        Self::following(dir, urls, &all)
    }

    /// Starts a server that listens there, with these options; without staging, as one that follows another.
    #[must_use]
    pub fn following(dir: &Path, urls: &[&str], options: &[OsString]) -> Self {
        Self::run(Command::new(&binaries().server), dir, urls, options)
    }

    /// Starts a server by a command that ends with its program.
    #[must_use]
    pub fn run(mut command: Command, dir: &Path, urls: &[&str], options: &[OsString]) -> Self {
        let data = dir.join("data");
        command.arg("serve").arg("--data").arg(&data).args(options);
        for url in urls {
            command.args(["--listen", url]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let listening: Vec<String> =
            lines.take(urls.len()).map(|line| line.unwrap().strip_prefix("listening on ").unwrap().to_owned()).collect();
        assert_eq!(listening.len(), urls.len(), "the server did not start");
        Self { child, urls: listening, data, is_killed: false }
    }

    /// Runs a verb of the server's program against it.
    #[must_use]
    pub fn verb(&self, arguments: &[&str]) -> Output {
        self.verb_of(&binaries().server, arguments)
    }

    /// Runs a verb of another program against it, as one of another age.
    #[must_use]
    pub fn verb_of(&self, program: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).arg("--data").arg(&self.data).arg("--json");
        run(command)
    }
}

impl Serving {
    /// Returns its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether somebody killed it with kill -9.
    #[must_use]
    pub fn is_killed(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        self.is_killed |= self.child.try_wait().unwrap().is_some_and(|status| status.signal() == Some(9));
        self.is_killed
    }

    /// Ends it with kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.is_killed = true;
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.is_killed {
            return;
        }
        terminate(&self.child);
        let status = self.child.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "the server did not stop as it should: {status}");
    }
}

/// Sends SIGTERM.
pub fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
}

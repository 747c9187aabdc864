//! One warm parent: a Ruby process that forks a child for each question.

mod exchange;

use std::io::{self, BufRead as _, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::checkout::Checkout;
use super::error::WorkerError;
use super::options::PuppetOptions;
use exchange::Exchange;

/// The program of warm parents and their children.
const PROGRAM: &str = include_str!("worker.rb");

/// How long the library may take to load.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How long a parent that is not needed may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A running warm parent. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    /// Sockets of questions go this way. When it is closed, the parent ends.
    control: Option<UnixStream>,
    process: Option<Child>,
    started: Instant,
    compiles: AtomicU64,
}

/// What the program is told: `ARGV[0]`.
#[derive(Debug, Serialize)]
struct Settings<'a> {
    environment: &'a str,
    environments: String,
    confdir: String,
    vardir: String,
    modules: String,
    idle_seconds: u64,
    memory_bytes: u64,
    server_name: &'a str,
}

/// The one line that the program says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Announcement {
    Ready(Versions),
    Missing(String),
    Failed(String),
}

#[derive(Debug, Deserialize)]
struct Versions {
    puppet: String,
    ruby: String,
}

impl Worker {
    /// Starts one. Blocking.
    pub(super) fn start(options: &PuppetOptions, checkout: &Checkout) -> Result<Self, WorkerError> {
        let begun = Instant::now();
        let (control, theirs) = UnixStream::pair()?;
        let (said, says) = UnixStream::pair()?;
        let mut command = Command::new(&options.ruby);
        options.limit_environment(&mut command);
        let process = command
            .args(["-Eutf-8:utf-8", "-e", PROGRAM])
            .arg(settings(options, checkout)?)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(says)))
            .current_dir(checkout.vardir())
            .process_group(0)
            .spawn()
            .map_err(|source| WorkerError::NoRuby { ruby: options.ruby.clone(), source })?;
        // The command holds their ends as well.
        drop(command);
        let worker = Self { control: Some(control), process: Some(process), started: begun, compiles: AtomicU64::new(0) };
        said.set_read_timeout(Some(START_LIMIT))?;
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => WorkerError::Start(format!("it did not load within {} seconds", START_LIMIT.as_secs())),
            _ => WorkerError::Start(error.to_string()),
        })?;
        match serde_json::from_str(&line) {
            Ok(Announcement::Ready(versions)) => {
                tracing::info!(environment = %checkout.environment(), puppet = versions.puppet, ruby = versions.ruby,
                    milliseconds = begun.elapsed().as_millis(), "ready to compile");
                Ok(worker)
            }
            Ok(Announcement::Missing(reason)) => Err(WorkerError::NoLibrary { ruby: options.ruby.clone(), reason }),
            Ok(Announcement::Failed(reason)) => Err(WorkerError::Start(reason)),
            Err(_) => Err(WorkerError::Start("it ended before it was ready; what it said stands in the log".to_owned())),
        }
    }

    /// Returns whether it shall be asked again: not when it has ended, grown or aged.
    pub(super) fn is_fit(&self, options: &PuppetOptions) -> bool {
        let is_small = self.pid().and_then(exchange::resident_bytes).is_some_and(|bytes| bytes < options.memory_limit_bytes);
        is_small && self.started.elapsed() < options.max_age && self.compiles.load(Ordering::Relaxed) < options.max_compiles
    }

    /// Has a child answer a question. Blocking.
    pub(super) fn ask(&self, question: &[u8], options: &PuppetOptions) -> Result<Vec<u8>, WorkerError> {
        self.compiles.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = UnixStream::pair()?;
        self.send(theirs)?;
        Exchange::begin(ours, options)?.make(question)
    }

    /// Passes a socket to the parent.
    fn send(&self, socket: UnixStream) -> Result<(), WorkerError> {
        let control = self.control.as_ref().ok_or(WorkerError::Gone)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let sockets = [socket.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
        match sendmsg(control, &[IoSlice::new(b"c")], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(WorkerError::Gone),
            Err(error) => Err(WorkerError::Io(error.into())),
        }
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.process.as_ref().map(Pid::from_child)
    }
}

impl Drop for Worker {
    /// It ends by itself when nobody can ask it any more. That is waited for elsewhere, so that nobody waits for it here.
    fn drop(&mut self) {
        drop(self.control.take());
        let Some(mut process) = self.process.take() else { return };
        let pid = Pid::from_child(&process);
        std::thread::spawn(move || {
            let deadline = Instant::now() + END_LIMIT;
            while matches!(process.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            if matches!(process.try_wait(), Ok(None)) {
                // Not there any more is what is wanted.
                let _ = kill_process_group(pid, Signal::KILL);
                drop(process.wait());
            }
        });
    }
}

fn settings(options: &PuppetOptions, checkout: &Checkout) -> Result<String, WorkerError> {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let modules = match options.base_modules.as_slice() {
        [] => text(&checkout.no_modules()),
        some => some.iter().map(|path| text(path)).collect::<Vec<_>>().join(":"),
    };
    let settings = Settings {
        environment: checkout.environment().as_str(),
        environments: text(&checkout.environments()),
        confdir: options.confdir.as_deref().map_or_else(|| text(&checkout.confdir()), text),
        vardir: text(&checkout.vardir()),
        modules,
        idle_seconds: options.idle_for.as_secs().max(1),
        memory_bytes: options.memory_limit_bytes,
        server_name: &options.server_name,
    };
    serde_json::to_string(&settings).map_err(|error| WorkerError::Start(error.to_string()))
}

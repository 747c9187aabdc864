//! Running an executable fact: in a process group of its own, with a time limit and bounded output.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Bytes of standard error that are kept; more is read and dropped.
const MAX_STDERR_BYTES: usize = 4096;

/// What a pipe of Linux holds, unless made larger: pipe(7).
const PIPE_BYTES: usize = 64 * 1024;

/// How an executable ended, and what it wrote.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

/// Why an executable has no output that counts.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecuteError {
    #[error("could not run it")]
    Start(#[source] io::Error),
    #[error("could not wait for it")]
    Wait(#[source] io::Error),
    #[error("it took longer than {0:?} and was killed")]
    TimedOut(Duration),
    #[error("it wrote more than {0} bytes and was killed")]
    TooLong(usize),
    #[error("it was ended by {0}")]
    Killed(ExitStatus),
}

/// A child that leads a process group. It and all that it left running are killed when this is dropped.
struct Group {
    /// Taken when it has been waited for: until then its number is its own.
    child: Option<Child>,
    leader: Pid,
}

impl Group {
    fn of(child: Child) -> Result<Self, ExecuteError> {
        let leader = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let leader = leader.ok_or_else(|| ExecuteError::Wait(io::Error::other("it has no process id")))?;
        Ok(Self { child: Some(child), leader })
    }

    /// Kills what is left of the group and returns how the child ended.
    fn end(&mut self) -> io::Result<ExitStatus> {
        let mut child = self.child.take().ok_or(io::ErrorKind::NotFound)?;
        // All of it may have ended by itself.
        let _ = kill_process_group(self.leader, Signal::KILL);
        child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What went wrong before is what counts.
        drop(self.end());
    }
}

/// Runs an executable to its end. What it leaves running is killed with it. Blocking.
pub(super) fn run(path: &Path, time_limit: Duration, max_bytes: usize) -> Result<Output, ExecuteError> {
    let started = Instant::now();
    let mut child = spawn(path)?;
    let pipes = (child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from));
    let mut group = Group::of(child)?;
    let mut stdout = Pipe::new(pipes.0, max_bytes)?;
    let mut stderr = Pipe::new(pipes.1, MAX_STDERR_BYTES)?;
    let ended = pidfd_open(group.leader, PidfdFlags::empty()).map_err(|error| ExecuteError::Wait(error.into()))?;
    loop {
        let left = time_limit.checked_sub(started.elapsed()).ok_or(ExecuteError::TimedOut(time_limit))?;
        let has_ended = wait(&ended, [&stdout, &stderr], left).map_err(ExecuteError::Wait)?;
        // What it wrote before its end is in the pipes by now.
        stdout.read();
        stderr.read();
        if stdout.is_over {
            return Err(ExecuteError::TooLong(max_bytes));
        }
        if has_ended {
            break;
        }
    }
    let status = group.end().map_err(ExecuteError::Wait)?;
    if status.code().is_none() {
        return Err(ExecuteError::Killed(status));
    }
    Ok(Output { status, stdout: stdout.kept, stderr: String::from_utf8_lossy(&stderr.kept).into_owned() })
}

fn spawn(path: &Path) -> Result<Child, ExecuteError> {
    // It is started in another directory.
    let path = std::path::absolute(path).map_err(ExecuteError::Start)?;
    Command::new(path)
        .current_dir("/")
        // One that runs Facter, or this agent, for other facts must not be run by that again.
        .envs([("LC_ALL", "C"), ("LANG", "C"), ("INSIDE_FACTER", "true")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(ExecuteError::Start)
}

/// Waits until the process has ended, a pipe can be read, or the time is over; returns whether it has ended.
fn wait(ended: &OwnedFd, pipes: [&Pipe; 2], left: Duration) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
    let mut sources = vec![PollFd::new(ended, PollFlags::IN)];
    sources.extend(pipes.iter().filter_map(|pipe| pipe.file.as_ref()).map(|file| PollFd::new(file, PollFlags::IN)));
    match poll(&mut sources, Some(&timeout)) {
        Ok(_) => Ok(!sources[0].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The reading end of an output.
struct Pipe {
    /// Gone when the other end is.
    file: Option<File>,
    kept: Vec<u8>,
    max_bytes: usize,
    /// More was written than is kept.
    is_over: bool,
}

impl Pipe {
    fn new(fd: Option<OwnedFd>, max_bytes: usize) -> Result<Self, ExecuteError> {
        if let Some(fd) = &fd {
            rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK).map_err(|error| ExecuteError::Wait(error.into()))?;
        }
        Ok(Self { file: fd.map(File::from), kept: Vec::new(), max_bytes, is_over: false })
    }

    /// Reads what is there, at most twice what a pipe holds: somebody may write without end.
    fn read(&mut self) {
        let mut buffer = vec![0; PIPE_BYTES];
        for _ in 0..2 {
            let Some(file) = &mut self.file else { return };
            match file.read(&mut buffer) {
                Ok(0) => self.file = None,
                Ok(length) => {
                    let room = self.max_bytes.saturating_sub(self.kept.len());
                    self.kept.extend_from_slice(&buffer[..length.min(room)]);
                    self.is_over |= length > room;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.file = None,
            }
        }
    }
}

//! One question and its answer, with an eye on the child that gives it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use direct_puppet_transport::protocol::limits::MAX_CATALOG_BYTES;
use rustix::process::{Pid, Signal, kill_process_group};

use super::super::error::WorkerError;
use super::super::options::PuppetOptions;

/// How often a child is looked at.
const PACE: Duration = Duration::from_millis(25);

/// How many looks at a child go with one at all that it has started.
const GROUP_EVERY: u32 = 10;

/// How long a parent may take to fork.
const FORK_LIMIT: Duration = Duration::from_secs(60);

/// Longest line of a parent.
const MAX_LINE_BYTES: usize = 64;

/// Longest answer: a catalog with what it has more in JSON.
const MAX_ANSWER_BYTES: u64 = 2 * MAX_CATALOG_BYTES;

/// One question under way.
pub(super) struct Exchange<'a> {
    socket: UnixStream,
    child: Pid,
    begun: Instant,
    looked: Instant,
    looks: u32,
    /// How many looks at the group found too much, one after the other.
    looks_too_big: u32,
    options: &'a PuppetOptions,
}

impl<'a> Exchange<'a> {
    /// Waits for the child.
    pub(super) fn begin(socket: UnixStream, options: &'a PuppetOptions) -> Result<Self, WorkerError> {
        let begun = Instant::now();
        socket.set_read_timeout(Some(FORK_LIMIT))?;
        let line = match line(&socket) {
            // Nobody took the question.
            Ok(line) if line.is_empty() => return Err(WorkerError::Gone),
            Ok(line) if line == "busy" => return Err(WorkerError::Busy),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(WorkerError::Gone),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(WorkerError::Start(format!("it took no question within {} seconds", FORK_LIMIT.as_secs())));
            }
            other => other?,
        };
        let child = line.strip_prefix("pid ").and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        let child = child.ok_or_else(|| WorkerError::Start(format!("it said {line:?} where it had to name a process")))?;
        socket.set_read_timeout(Some(PACE))?;
        socket.set_write_timeout(Some(PACE))?;
        Ok(Self { socket, child, begun, looked: begun, looks: 0, looks_too_big: 0, options })
    }

    /// Asks, and returns the answer.
    pub(super) fn make(mut self, question: &[u8]) -> Result<Vec<u8>, WorkerError> {
        let length = u32::try_from(question.len()).map_err(|_| WorkerError::Question("they are too long".to_owned()))?;
        if self.write(&length.to_be_bytes())? && self.write(question)? {
            let mut head = [0; 4];
            if self.read(&mut head[..1])? {
                if head[0] == b'e' || head[0] == b's' {
                    // A length of more than 1.5 GiB, or the parent that tells how the child has ended.
                    return Err(self.end(head[0]));
                }
                if !self.read(&mut head[1..])? {
                    return Err(self.end(0));
                }
                let length = u64::from(u32::from_be_bytes(head));
                if length > MAX_ANSWER_BYTES {
                    self.kill();
                    return Err(WorkerError::TooLong(length));
                }
                let mut answer = Vec::new();
                while (answer.len() as u64) < length {
                    // Memory is taken for what has come, not for what was announced.
                    let at = answer.len();
                    answer.resize((at + (1 << 20)).min(usize::try_from(length).unwrap_or(usize::MAX)), 0);
                    if !self.read(&mut answer[at..])? {
                        return Err(WorkerError::Answer("it breaks off".to_owned()));
                    }
                }
                return Ok(answer);
            }
        }
        Err(self.end(0))
    }

    /// Reads all that was asked for; false when the child has ended before.
    fn read(&mut self, mut buffer: &mut [u8]) -> Result<bool, WorkerError> {
        while !buffer.is_empty() {
            match self.socket.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) => self.pause(error)?,
            }
            self.look()?;
        }
        Ok(true)
    }

    /// Writes all; false when the child has ended before.
    fn write(&mut self, mut bytes: &[u8]) -> Result<bool, WorkerError> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                Err(error) => self.pause(error)?,
            }
            self.look()?;
        }
        Ok(true)
    }

    /// Passes on what is no mere pause.
    fn pause(&self, error: io::Error) -> Result<(), WorkerError> {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(()),
            _ => {
                self.kill();
                Err(error.into())
            }
        }
    }

    /// Ends a child that takes too long or too much.
    fn look(&mut self) -> Result<(), WorkerError> {
        if self.looked.elapsed() < PACE {
            return Ok(());
        }
        self.looked = Instant::now();
        if self.begun.elapsed() > self.options.time_limit {
            self.kill();
            return Err(WorkerError::TimedOut(self.options.time_limit));
        }
        let limit = self.options.memory_limit_bytes;
        self.looks += 1;
        let is_alone_too_big = resident_bytes(self.child).is_some_and(|bytes| bytes > limit);
        if self.looks.is_multiple_of(GROUP_EVERY) {
            // A process that has just forked counts twice, once.
            let is_too_big = resident_bytes_of_all(self.child) > limit;
            self.looks_too_big = if is_too_big { self.looks_too_big + 1 } else { 0 };
        }
        if is_alone_too_big || self.looks_too_big > 1 {
            self.kill();
            return Err(WorkerError::TooBig(limit));
        }
        Ok(())
    }

    fn kill(&self) {
        // Gone already is as good.
        let _ = kill_process_group(self.child, Signal::KILL);
    }

    /// Tells how the child has ended, as its parent says. `first` is the byte of that which was read already, if one was.
    fn end(&self, first: u8) -> WorkerError {
        drop(self.socket.set_read_timeout(Some(FORK_LIMIT)));
        let mut said = line(&self.socket).unwrap_or_default();
        if first != 0 {
            said.insert(0, char::from(first));
        }
        let number = |text: &str| text.parse::<i32>().ok();
        match said.split_once(' ').map(|(what, rest)| (what, number(rest))) {
            Some(("exit", Some(status))) => WorkerError::Exited(status),
            Some(("signal", Some(signal))) if signal == Signal::KILL.as_raw() || signal == Signal::TERM.as_raw() => {
                WorkerError::Killed(signal)
            }
            Some(("signal", Some(signal))) => WorkerError::Crashed(signal),
            // The parent has gone with it.
            _ => WorkerError::Killed(Signal::KILL.as_raw()),
        }
    }
}

/// Reads a line of the parent without its end, byte by byte: what follows is not its own.
fn line(mut socket: &UnixStream) -> io::Result<String> {
    let mut text = String::new();
    let mut byte = [0];
    while text.len() < MAX_LINE_BYTES {
        match socket.read(&mut byte) {
            Ok(1) if byte[0] != b'\n' => text.push(char::from(byte[0])),
            Ok(_) => break,
            // Reads with a limit are not begun again by the kernel after a signal (signal(7)): another child may have ended.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(text)
}

/// A process, as proc_pid_stat(5) tells of it.
struct Process {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    resident_pages: u64,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may be any. State, parent, group and session are fields 3 to 6, the number of resident pages is field 24.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
        let (parent, group, session) = (number(1)?, number(2)?, number(3)?);
        Some(Self { pid, parent, group, session, resident_pages: fields.get(21)?.parse().ok()? })
    }
}

/// Returns how much memory a compile has together with all that it started: its group, what descends from it, and what was left to its parent in
/// a session of its own, of whichever compile that is.
fn resident_bytes_of_all(child: Pid) -> u64 {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let child = child.as_raw_nonzero().get();
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: Vec<Process> = pids.filter_map(Process::read).collect();
    let own = all.iter().find(|process| process.pid == child);
    let is_orphan = |process: &Process| own.is_some_and(|own| process.parent == own.parent && process.session != own.session);
    let mut counted: Vec<&Process> =
        all.iter().filter(|process| process.group == child || process.pid == child || is_orphan(process)).collect();
    let mut at = 0;
    while let Some(parent) = counted.get(at).map(|process| process.pid) {
        let below = all.iter().filter(|process| process.parent == parent);
        let new: Vec<&Process> = below.filter(|process| counted.iter().all(|known| known.pid != process.pid)).collect();
        counted.extend(new);
        at += 1;
    }
    counted.iter().map(|process| process.resident_pages).sum::<u64>().saturating_mul(page)
}

/// Returns how much memory a process has; `None` when it is not there any more.
pub(super) fn resident_bytes(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

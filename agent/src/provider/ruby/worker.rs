//! One Ruby process that runs types and providers.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::frame;
use super::message::{Announcement, Settings, Versions};
use crate::provider::command::{DEFAULT_PATH, Group};

/// The program.
const PROGRAM: &str = include_str!("worker.rb");

/// Longest answer, in bytes: one for many resources.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// What a type wrote last to standard output or error is kept, in bytes: it may say why the process ended.
const MAX_SAID_BYTES: usize = 2048;

/// How long a process that has closed its answers, or was told to end, may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer may take that a process gave just before it ended.
const LAST_ANSWER: Duration = Duration::from_millis(200);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkerError {
    /// There is no such program, or it has no library of Puppet's: types in Ruby are not there.
    #[error("{0}")]
    Missing(String),
    #[error("could not start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("Ruby could not load types: {0}")]
    Load(String),
    #[error("Ruby ended ({status}) before it answered{}", last_words(said))]
    Ended { status: String, said: String },
    #[error("Ruby took longer than {0:?} and was killed")]
    TimedOut(Duration),
    #[error("Ruby was killed because the run was cancelled")]
    Cancelled,
    #[error("could not speak with Ruby")]
    Io(#[from] io::Error),
    #[error("the answer of Ruby is not what it should be")]
    Answer(#[from] serde_json::Error),
}

fn last_words(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// What may be waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) limit: Duration,
    pub(super) cancel: &'a CancellationToken,
}

/// What a question leads to.
enum Given {
    Answer(Vec<u8>),
    End(ExitStatus),
}

/// A running process. Dropping it kills the process and all that it started.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    group: Group,
    questions: ChildStdin,
    answers: ChildStdout,
    said: Arc<Mutex<Vec<u8>>>,
    /// Reads standard error, so that nobody who writes there waits.
    _reads: AbortOnDropHandle<()>,
}

impl Worker {
    /// Starts one, counts it, and returns it with what it has loaded.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills what was started.
    pub(super) async fn start(
        program: &Path,
        settings: &Settings<'_>,
        started: &AtomicU64,
        patience: Patience<'_>,
    ) -> Result<(Self, Versions), WorkerError> {
        let name = program.display().to_string();
        let broken = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => WorkerError::Missing(format!("there is no {name}")),
            _ => WorkerError::Start { program: name.clone(), source },
        };
        let mut child = Command::new(program)
            .args(["-Eutf-8:utf-8", "-e", PROGRAM])
            .arg(serde_json::to_string(settings)?)
            .current_dir("/")
            .env_clear()
            .envs([("PATH", DEFAULT_PATH), ("LC_ALL", "C.UTF-8")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(broken)?;
        started.fetch_add(1, Ordering::Relaxed);
        let group = Group::of(&child);
        let (Some(questions), Some(answers), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(broken(io::Error::other("it has no pipes")));
        };
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let reads = AbortOnDropHandle::new(tokio::spawn(keep_last(stderr, Arc::clone(&said))));
        let mut worker = Self { child, group, questions, answers, said, _reads: reads };
        match serde_json::from_slice(&worker.ask(None, patience).await?)? {
            Announcement::Ready(versions) => Ok((worker, versions)),
            Announcement::Missing(reason) => Err(WorkerError::Missing(format!("{name} has no library of Puppet's: {reason}"))),
            Announcement::Failed(reason) => Err(WorkerError::Load(reason)),
        }
    }

    /// Asks, and returns the answer; without a question, what is said unasked.
    ///
    /// # Cancel safety
    ///
    /// Not safe: what is asked is then half done. Drop the worker too.
    pub(super) async fn ask(&mut self, question: Option<&[u8]>, patience: Patience<'_>) -> Result<Vec<u8>, WorkerError> {
        tokio::select! {
            biased;
            answer = self.exchange(question) => answer,
            () = patience.cancel.cancelled() => Err(WorkerError::Cancelled),
            () = tokio::time::sleep(patience.limit) => Err(WorkerError::TimedOut(patience.limit)),
        }
    }

    async fn exchange(&mut self, question: Option<&[u8]>) -> Result<Vec<u8>, WorkerError> {
        match self.answer(question).await {
            Ok(Given::Answer(answer)) => Ok(answer),
            Ok(Given::End(status)) => Err(self.ended(status)),
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) => {
                match tokio::time::timeout(END_LIMIT, self.child.wait()).await {
                    Ok(status) => Err(self.ended(status?)),
                    Err(_) => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the answer or the end of the process: what a type has forked may hold the pipe open beyond that.
    async fn answer(&mut self, question: Option<&[u8]>) -> io::Result<Given> {
        let Self { child, questions, answers, .. } = self;
        let answer = async {
            if let Some(question) = question {
                frame::write(questions, question).await?;
            }
            frame::read(answers, MAX_ANSWER_BYTES).await
        };
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => Ok(Given::Answer(answer?)),
            status = child.wait() => match tokio::time::timeout(LAST_ANSWER, &mut answer).await {
                Ok(Ok(answer)) => Ok(Given::Answer(answer)),
                _ => Ok(Given::End(status?)),
            },
        }
    }

    /// Tells how the process has ended; what it left running is left alone.
    fn ended(&mut self, status: ExitStatus) -> WorkerError {
        self.group.leave();
        let said = String::from_utf8_lossy(&lock(&self.said)).trim().to_owned();
        WorkerError::Ended { status: status.to_string(), said }
    }

    /// Returns whether it can still be asked.
    pub(super) fn is_alive(&mut self) -> bool {
        let is_alive = matches!(self.child.try_wait(), Ok(None));
        if !is_alive {
            self.group.leave();
        }
        is_alive
    }

    /// Waits for the process to end by itself after its last answer. What it started goes on.
    pub(super) async fn end(mut self) {
        drop(self.questions);
        if let Ok(Ok(_)) = tokio::time::timeout(END_LIMIT, self.child.wait()).await {
            self.group.leave();
        }
    }
}

/// Reads all that comes, and keeps the end of it.
async fn keep_last(mut stream: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let mut said = lock(&said);
        said.extend_from_slice(&buffer[..length]);
        let surplus = said.len().saturating_sub(MAX_SAID_BYTES);
        said.drain(..surplus);
    }
}

/// Locks, also after another thread panicked: what is guarded is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a program's place: a name without a slash is looked for where commands are. Blocking.
pub(super) fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return Some(program.to_owned());
    }
    DEFAULT_PATH.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

//! Commands: run by argument list in a process group of their own, with a time limit and bounded output.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// Bytes of output that are kept; more is read and dropped, so that the command is never blocked.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// The search path of commands that are given none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to run.
#[derive(Debug, Default)]
pub(super) struct CommandSpec {
    /// Program and arguments; never seen by a shell.
    pub(super) argv: Vec<OsString>,
    /// Directory to start in; `/` by default.
    pub(super) cwd: Option<PathBuf>,
    /// Added to an otherwise empty environment with `PATH` and `LC_ALL=C`.
    pub(super) environment: Vec<(String, String)>,
    /// How long it may take; `None` for ever.
    pub(super) time_limit: Option<Duration>,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct CommandOutput {
    pub(super) status: ExitStatus,
    /// Standard output, then standard error, at most [`MAX_OUTPUT_BYTES`] of each.
    pub(super) output: Vec<u8>,
}

impl CommandOutput {
    /// Returns the output as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

/// Why a command has no exit status.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("there is no program in the command")]
    Empty,
    #[error("could not run {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} took longer than {limit:?} and was killed")]
    TimedOut { program: String, limit: Duration },
    #[error("{program} was killed because the run was cancelled")]
    Cancelled { program: String },
}

/// Kills the process group of a command that was not waited for to its end.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.take() {
            // It may have ended by itself: then there is nothing to kill.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Runs a command to its end.
///
/// # Cancel safety
///
/// Dropping the future kills the command and everything in its process group.
pub(super) async fn run(spec: CommandSpec, cancel: &CancellationToken) -> Result<CommandOutput, CommandError> {
    let (program, arguments) = spec.argv.split_first().ok_or(CommandError::Empty)?;
    let name = program.to_string_lossy().into_owned();
    let start_error = |source| CommandError::Start { program: name.clone(), source };
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(spec.cwd.as_deref().unwrap_or("/".as_ref()))
        .env_clear()
        .envs([("PATH", DEFAULT_PATH), ("LC_ALL", "C")])
        .envs(spec.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(start_error)?;
    let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut group = Group(leader);
    let limit = spec.time_limit;
    let expired = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let output = tokio::select! {
        output = finish(&mut child) => output.map_err(start_error)?,
        () = expired => return Err(CommandError::TimedOut { program: name, limit: limit.unwrap_or_default() }),
        () = cancel.cancelled() => return Err(CommandError::Cancelled { program: name }),
    };
    // It has ended; a daemon that it left behind is meant to stay.
    group.0 = None;
    Ok(output)
}

/// Waits for the end of the command. What it left running may hold its output open: that is not waited for.
async fn finish(child: &mut Child) -> io::Result<CommandOutput> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let status = {
        let reading = async {
            tokio::join!(collect(stdout, &mut out), collect(stderr, &mut err));
        };
        tokio::pin!(reading);
        let mut all_read = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = &mut reading, if !all_read => all_read = true,
            }
        };
        if !all_read {
            // What was written before the end is in the pipe already.
            let _ = tokio::time::timeout(Duration::from_millis(100), &mut reading).await;
        }
        status
    };
    out.append(&mut err);
    Ok(CommandOutput { status, output: out })
}

async fn collect(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 8 * 1024];
    // An error of reading ends the output; how the command ended is what counts.
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..length.min(room)]);
    }
}

/// Splits a command line into words: blanks separate, quotes and backslashes join, nothing else has a meaning.
pub(super) fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\0', _) => return Err("must not contain NUL".to_owned()),
            (c, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => {
                let next = chars.next().ok_or("ends with a backslash")?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, '"' | '\\') {
                    word.push('\\');
                }
                word.push(next);
            }
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("has a quote that is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (text, words) in [
            ("", vec![]),
            (" /bin/a  b ", vec!["/bin/a", "b"]),
            (r#"/a 'b c' "d \"e\" \n" f\ g"#, vec!["/a", "b c", r#"d "e" \n"#, "f g"]),
            ("/a '' x''y", vec!["/a", "", "xy"]),
            ("/a $HOME; `b` | c", vec!["/a", "$HOME;", "`b`", "|", "c"]),
        ] {
            assert_eq!(split_words(text).unwrap(), words, "{text}");
        }
        for text in ["'a", "\"a", "a\\", "a\0"] {
            assert!(split_words(text).is_err(), "{text}");
        }
    }

    fn spec(argv: &[&str]) -> CommandSpec {
        CommandSpec { argv: argv.iter().map(OsString::from).collect(), ..CommandSpec::default() }
    }

    #[tokio::test]
    async fn ends_and_says_how() {
        let cancel = CancellationToken::new();
        let output = run(spec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]), &cancel).await.unwrap();
        assert_eq!((output.status.code(), output.text().as_str()), (Some(3), "out\nerr\n"));
        let missing = run(spec(&["/nonexistent/program"]), &cancel).await.unwrap_err();
        assert!(matches!(missing, CommandError::Start { .. }), "{missing}");
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let cancel = CancellationToken::new();
        let output = run(spec(&["/bin/sh", "-c", "head -c 1000000 /dev/zero"]), &cancel).await.unwrap();
        assert_eq!(output.output.len(), MAX_OUTPUT_BYTES);
    }

    #[tokio::test]
    async fn time_limit_and_cancel_kill() {
        let cancel = CancellationToken::new();
        let mut limited = spec(&["/bin/sh", "-c", "sleep 60 & wait"]);
        limited.time_limit = Some(Duration::from_millis(20));
        assert!(matches!(run(limited, &cancel).await, Err(CommandError::TimedOut { .. })));
        cancel.cancel();
        assert!(matches!(run(spec(&["/bin/sleep", "60"]), &cancel).await, Err(CommandError::Cancelled { .. })));
    }
}

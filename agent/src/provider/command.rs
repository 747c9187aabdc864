//! Commands: run by argument list in a process group of their own, with a time limit and bounded output.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

/// Bytes of output that are kept; more is read and dropped, so that the command is never blocked.
const MAX_OUTPUT_BYTES: usize = 64 * 1024;

/// The search path of commands that are given none.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
    /// Written to its standard input; nothing by default.
    pub(super) input: Option<Input>,
    /// Bytes of output that are kept where the whole of it counts; more is an error then.
    pub(super) whole_output_bytes: Option<usize>,
}

/// What a command reads: perhaps a secret, so never shown.
pub(super) struct Input(pub(super) Vec<u8>);

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Input({} bytes)", self.0.len())
    }
}

/// How it ended.
#[derive(Debug)]
pub(super) struct CommandOutput {
    pub(super) status: ExitStatus,
    /// Standard output, then standard error, at most [`MAX_OUTPUT_BYTES`] of each.
    pub(super) output: Vec<u8>,
    /// How many bytes of it are standard output.
    stdout_bytes: usize,
}

impl CommandOutput {
    /// Returns standard output alone.
    pub(super) fn stdout(&self) -> &[u8] {
        &self.output[..self.stdout_bytes]
    }

    /// Returns standard error alone.
    pub(super) fn stderr(&self) -> &[u8] {
        &self.output[self.stdout_bytes..]
    }

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
    #[error("{program} said more than {limit_bytes} bytes")]
    TooLong { program: String, limit_bytes: usize },
}

/// Kills the process group of a command that was not waited for to its end.
#[derive(Debug)]
pub(super) struct Group(Option<Pid>);

impl Group {
    /// Returns the group that a command began.
    pub(super) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Leaves alone what the command, which has ended, left running: it is meant to stay.
    pub(super) const fn leave(&mut self) {
        self.0 = None;
    }
}

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
    let start = |path: &OsStr| {
        Command::new(path)
            .arg0(program)
            .args(arguments)
            .current_dir(spec.cwd.as_deref().unwrap_or("/".as_ref()))
            .env_clear()
            .envs([("PATH", DEFAULT_PATH), ("LC_ALL", "C")])
            .envs(spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(if spec.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    };
    let search = spec.environment.iter().rev().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, search)| search);
    let started = match place_of(program, search).map(|path| start(path.as_os_str())) {
        Some(Ok(started)) => Ok(started),
        // The C library may get further: it looks on where what runs a script is missing, and has a shell run one that does not say what does.
        Some(Err(_)) | None => start(program),
    };
    let mut child = started.map_err(start_error)?;
    let mut group = Group::of(&child);
    let limit = spec.time_limit;
    let room = spec.whole_output_bytes.map_or(MAX_OUTPUT_BYTES, |limit| limit.saturating_add(1));
    let expired = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let output = tokio::select! {
        output = finish(&mut child, spec.input, room) => output.map_err(start_error)?,
        () = expired => return Err(CommandError::TimedOut { program: name, limit: limit.unwrap_or_default() }),
        () = cancel.cancelled() => return Err(CommandError::Cancelled { program: name }),
    };
    group.leave();
    match spec.whole_output_bytes {
        Some(limit_bytes) if output.stdout_bytes > limit_bytes => Err(CommandError::TooLong { program: name, limit_bytes }),
        _ => Ok(output),
    }
}

/// Returns where a program is that is named without its directory, as far as can be seen. The C library would look for it in a copy of the whole
/// process: making that, and writing to each page afterwards, takes longer than many a command. `None` when it is to look itself.
fn place_of(program: &OsStr, search: &str) -> Option<PathBuf> {
    if program.is_empty() || program.as_bytes().contains(&b'/') {
        return None;
    }
    // What is not absolute is below the directory that the command starts in.
    let directories = search.split(':').take_while(|directory| directory.starts_with('/'));
    directories.map(|directory| Path::new(directory).join(program)).find(|path| path.is_file() && is_executable(path))
}

/// Returns whether this process may execute a file.
pub(super) fn is_executable(path: &Path) -> bool {
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// Waits for the end of the command. What it left running may hold its output open: that is not waited for.
async fn finish(child: &mut Child, input: Option<Input>, room: usize) -> io::Result<CommandOutput> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let status = {
        let reading = async {
            tokio::join!(feed(stdin, input), collect(stdout, &mut out, room), collect(stderr, &mut err, MAX_OUTPUT_BYTES));
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
    let stdout_bytes = out.len();
    out.append(&mut err);
    Ok(CommandOutput { status, output: out, stdout_bytes })
}

/// Writes the input and closes it. A command that does not read it all says by its status what became of it.
async fn feed(stdin: Option<ChildStdin>, input: Option<Input>) {
    if let (Some(mut stdin), Some(input)) = (stdin, input) {
        let _written = stdin.write_all(&input.0).await;
    }
}

async fn collect(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, limit: usize) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0; 8 * 1024];
    // An error of reading ends the output; how the command ended is what counts.
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let room = limit.saturating_sub(kept.len());
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
    use std::os::unix::fs::PermissionsExt as _;

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
    async fn programs_are_found_as_the_c_library_finds_them() {
        let (dir, cancel) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let write = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("first/told", "", 0o644);
        write("first/broken", "#!/nonexistent/interpreter\n", 0o755);
        write("second/broken", "#!/bin/sh\necho second\n", 0o755);
        write("second/told", "#!/bin/sh\necho \"$0\" \"$@\"\n", 0o755);
        write("second/plain", "echo plain \"$@\"\n", 0o755);
        let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let search = format!("{}:{}:/bin", place("first"), place("second"));
        let place_in =
            |search: &str, program: &str| place_of(program.as_ref(), search).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(place_in(&search, "told"), Some(place("second/told")), "what cannot be executed is passed over");
        for (search, program) in [(&*search, "none"), (&*search, ""), (&*search, "/bin/sh"), (&*format!("bin:{search}"), "told")]
        {
            assert_eq!(place_in(search, program), None, "{program} in {search}");
        }
        let said = async |search: &str, argv: &[&str]| {
            let environment = vec![("PATH".to_owned(), "/nonexistent".to_owned()), ("PATH".to_owned(), search.to_owned())];
            run(CommandSpec { environment, cwd: Some(dir.path().to_owned()), ..spec(argv) }, &cancel).await.unwrap().text()
        };
        assert_eq!(said(&search, &["told", "a b"]).await, format!("{} a b\n", place("second/told")));
        // Without a line that says what runs it, a shell does.
        assert_eq!(said(&search, &["plain", "x"]).await, "plain x\n");
        assert_eq!(said(&search, &["broken"]).await, "second\n", "what runs the first one is missing");
        assert_eq!(said("second", &["told"]).await, "second/told\n", "below the directory that it starts in");
        // A program sees the name that it was called by.
        assert_eq!(said("/bin:/usr/bin", &["sh", "-c", "echo $0"]).await, "sh\n");
        let missing = run(spec(&["no-such-program-anywhere"]), &cancel).await.unwrap_err();
        assert!(matches!(missing, CommandError::Start { .. }), "{missing}");
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let cancel = CancellationToken::new();
        let output = run(spec(&["/bin/sh", "-c", "head -c 1000000 /dev/zero"]), &cancel).await.unwrap();
        assert_eq!(output.output.len(), MAX_OUTPUT_BYTES);
    }

    #[tokio::test]
    async fn input_is_read_and_never_shown() {
        let cancel = CancellationToken::new();
        let long = vec![b'x'; 200_000];
        let spec = || CommandSpec {
            input: Some(Input(long.clone())),
            whole_output_bytes: Some(200_000),
            ..spec(&["/bin/sh", "-c", "echo err >&2; cat"])
        };
        assert!(!format!("{:?}", spec()).contains("120, 120"), "input must not be shown");
        assert_eq!(run(spec(), &cancel).await.unwrap().stdout(), long);
        let shorter = CommandSpec { whole_output_bytes: Some(1000), ..spec() };
        assert!(matches!(run(shorter, &cancel).await, Err(CommandError::TooLong { limit_bytes: 1000, .. })));
        let unread = CommandSpec { input: Some(Input(long.clone())), ..self::spec(&["/bin/true"]) };
        assert!(run(unread, &cancel).await.unwrap().status.success());
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

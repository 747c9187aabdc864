//! Which requests are signed without an administrator.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use direct_puppet_transport::protocol::Certname;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::CaError;

/// How long a policy program may take: an agent waits for the answer.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of what a policy program says is logged, in bytes; the rest is read and let go.
const SAID_BYTES: u64 = 4096;

/// The longest list that is read, in bytes.
const MAX_LIST_BYTES: u64 = 16 << 20;

/// Which requests are signed at once: Puppet's setting `autosign`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Autosign {
    /// None.
    #[default]
    Nobody,
    /// All: whoever reaches the server gets a certificate for any name that has none yet.
    Everybody,
    /// Those that a file says: a program, when it is executable, which gets the name as its argument and the request on standard input
    /// and says yes with exit code 0; else a list of names, and of globs as `*.example.com`, one a line. Without the file, none.
    File(PathBuf),
}

impl From<&str> for Autosign {
    /// Reads the setting: `true`, `false`, or the path of a file.
    fn from(text: &str) -> Self {
        match text {
            "true" => Self::Everybody,
            "false" => Self::Nobody,
            path => Self::File(path.into()),
        }
    }
}

impl Autosign {
    /// Says whether a request is to be signed at once. A program is asked only where `may_ask` says so; otherwise the answer is no.
    ///
    /// # Cancel safety
    ///
    /// A policy program is killed when the future is dropped, with what it has started.
    pub(super) async fn allows(&self, name: &Certname, pem: &str, may_ask: impl FnOnce() -> bool) -> Result<bool, CaError> {
        let path = match self {
            Self::Nobody => return Ok(false),
            Self::Everybody => return Ok(true),
            Self::File(path) => path,
        };
        let found = match tokio::fs::metadata(path).await {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(CaError::damaged(path, error.to_string())),
        };
        if found.permissions().mode() & 0o111 != 0 {
            return if may_ask() { ask(path, name, pem, PROGRAM_TIMEOUT).await } else { Ok(false) };
        }
        if found.len() > MAX_LIST_BYTES {
            return Err(CaError::damaged(path, format!("it is longer than {MAX_LIST_BYTES} bytes")));
        }
        let list = tokio::fs::read_to_string(path).await.map_err(|error| CaError::damaged(path, error.to_string()))?;
        Ok(is_listed(&list, name, path))
    }
}

/// The processes of a policy program; killed on drop, unless it has ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take()
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "the processes of an autosign program are gone already");
        }
    }
}

/// Asks a policy program.
async fn ask(path: &Path, name: &Certname, pem: &str, limit: Duration) -> Result<bool, CaError> {
    let failed = |reason: String| CaError::Policy { path: path.to_owned(), reason };
    let mut child = Command::new(path)
        .arg(name.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut group = Group(leader);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // A program that decides by the name alone reads nothing.
            let _unread = stdin.write_all(pem.as_bytes()).await;
        }
    };
    let said = async { (hear(stdout).await, hear(stderr).await) };
    let talk = async { tokio::join!(tell, said, child.wait()) };
    let ((), (out, err), status) =
        tokio::time::timeout(limit, talk).await.map_err(|_| failed(format!("it took longer than {limit:?}")))?;
    // It has ended, and its number may soon be another's.
    group.0 = None;
    let status = status.map_err(|error| failed(error.to_string()))?;
    tracing::info!(%name, %status, out, err, "autosign program {} has decided", path.display());
    Ok(status.success())
}

/// Reads what a program says to its end, and keeps the beginning.
async fn hear(from: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut kept = Vec::new();
    if (&mut from).take(SAID_BYTES).read_to_end(&mut kept).await.is_ok() {
        let _rest = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&kept).trim().escape_debug().to_string()
}

/// Whether a list has a name. A line that is no name and no glob is told and passed over, as in Puppet.
fn is_listed(list: &str, name: &Certname, path: &Path) -> bool {
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let mut is_it = false;
    for line in lines {
        match Pattern::parse(line.trim_end()) {
            Some(pattern) => is_it |= pattern.matches(name.as_str()),
            None => tracing::warn!("{} has a line that is no name and no glob: {line:?}", path.display()),
        }
    }
    is_it
}

/// A line of the list.
#[derive(Debug, PartialEq, Eq)]
enum Pattern<'a> {
    Everything,
    Exactly(&'a str),
    /// This domain and what is below it.
    Domain(String),
}

impl<'a> Pattern<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if line.is_empty() || line.contains(['#', ' ', '\t']) {
            return None;
        }
        match line.strip_prefix('*') {
            Some("") => Some(Self::Everything),
            // What stands beside the asterisk, as in "*a.example.com", must not widen it to the whole domain.
            Some(rest) => rest
                .strip_prefix('.')
                .filter(|rest| !rest.is_empty() && !rest.contains('*'))
                .map(|rest| Self::Domain(rest.to_ascii_lowercase())),
            None => (!line.contains('*')).then_some(Self::Exactly(line)),
        }
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Exactly(exactly) => *exactly == name,
            Self::Domain(domain) => {
                name.strip_suffix(domain.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_has_names_and_globs_and_nothing_wider() {
        let list =
            "# nodes\n\nn1.example.com\n*.web.example.com\n*.UPPER.example.com\nbad line\nx*.example.org\n*y.example.org\n";
        let listed = |name: &str| is_listed(list, &name.parse().unwrap(), Path::new("autosign.conf"));
        for yes in ["n1.example.com", "a.web.example.com", "a.b.web.example.com", "web.example.com", "a.upper.example.com"] {
            assert!(listed(yes), "{yes}");
        }
        for no in [
            "n2.example.com",
            "n1.example.com.evil.org",
            "aweb.example.com",
            "web.example.com.evil.org",
            "bad",
            "xa.example.org",
            "ay.example.org",
            "example.org",
        ] {
            assert!(!listed(no), "{no}");
        }
        assert!(is_listed("*", &"anything".parse().unwrap(), Path::new("x")));
    }

    #[tokio::test]
    async fn a_program_decides_by_its_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy");
        std::fs::write(&path, "#!/bin/sh\ngrep -q 'BEGIN' && [ \"$1\" = good ]\n").unwrap();
        let autosign = Autosign::File(path.clone());
        let name = |text: &str| text.parse::<Certname>().unwrap();
        // As long as it is not executable it is a list, in which neither stands.
        assert!(!autosign.allows(&name("good"), "-----BEGIN", || true).await.unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(autosign.allows(&name("good"), "-----BEGIN", || true).await.unwrap());
        assert!(!autosign.allows(&name("bad"), "-----BEGIN", || true).await.unwrap());
        assert!(!autosign.allows(&name("good"), "nothing", || true).await.unwrap());
        std::fs::write(&path, "no program").unwrap();
        assert!(autosign.allows(&name("good"), "", || true).await.is_err());
        assert!(!Autosign::File(dir.path().join("missing")).allows(&name("good"), "", || true).await.unwrap());
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_with_what_it_has_started() {
        let dir = tempfile::tempdir().unwrap();
        let (path, alive) = (dir.path().join("policy"), dir.path().join("alive"));
        let script = format!("#!/bin/sh\n(while :; do echo >> {}; sleep 0.05; done) &\nwait\n", alive.display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let asked = ask(&path, &"n1".parse().unwrap(), "", Duration::from_secs(2)).await;
        assert!(matches!(asked, Err(CaError::Policy { .. })), "{asked:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let length = || std::fs::metadata(&alive).unwrap().len();
        let before = length();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(length(), before);
    }

    proptest! {
        #[test]
        fn a_domain_matches_only_itself_and_what_is_below(domain in "[a-z]{1,5}(\\.[a-z]{1,5}){0,2}", name in "[a-z.]{1,20}") {
            let glob = format!("*.{domain}");
            let is_below = name == domain || name.ends_with(&format!(".{domain}"));
            prop_assert_eq!(Pattern::parse(&glob).unwrap().matches(&name), is_below);
        }

        #[test]
        fn any_line_is_read_or_passed_over(line in ".*", name in ".*") {
            if let Some(pattern) = Pattern::parse(&line) {
                let _matched = pattern.matches(&name);
            }
        }
    }
}

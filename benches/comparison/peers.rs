//! What others use for the same work: programs of Debian's packages. One that is missing is a gap in the table.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Programs and the packages that bring them.
const PACKAGES: [(&str, &str); 13] = [
    ("git", "git"),
    ("rsync", "rsync"),
    ("b3sum", "b3sum"),
    ("nginx", "nginx-light"),
    ("wrk", "wrk"),
    ("curl", "curl"),
    ("ostree", "ostree"),
    ("zstd", "zstd"),
    ("puppet", "puppet-agent"),
    ("puppetserver", "puppetserver"),
    ("java", "default-jre-headless"),
    ("ip", "iproute2"),
    ("valgrind", "valgrind"),
];

/// Where packages put programs; first, so that the distribution's own are measured and not others of that name.
const PLACES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// Returns a command of a peer.
///
/// # Errors
///
/// When it is not installed; says which package brings it.
pub(crate) fn peer(program: &str) -> anyhow::Result<Command> {
    Ok(Command::new(find(program)?))
}

/// Returns where a peer's program is.
pub(crate) fn find(program: &str) -> anyhow::Result<PathBuf> {
    find_in(program, PLACES.iter().map(Path::new))
}

fn find_in<'a>(program: &str, mut places: impl Iterator<Item = &'a Path>) -> anyhow::Result<PathBuf> {
    let package = PACKAGES.iter().find(|(name, _)| *name == program).map_or(program, |(_, package)| package);
    places
        .find_map(|place| Some(place.join(program)).filter(|path| path.is_file()))
        .with_context(|| format!("{program} is not installed: apt-get install {package}"))
}

/// Returns the first line of what each peer says its version is, for the record.
pub(crate) fn versions() -> Vec<String> {
    let said = |program: &str, argument: &str| {
        let output = peer(program).ok()?.arg(argument).stdin(Stdio::null()).output().ok()?;
        let all = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&all).lines().next()?.trim().to_owned();
        Some(if line.to_lowercase().contains(program) { line } else { format!("{program} {line}") })
    };
    PACKAGES
        .iter()
        .filter(|(program, _)| *program != "ip")
        .filter_map(|(program, _)| match *program {
            "nginx" | "wrk" => said(program, "-v"),
            _ => said(program, "--version"),
        })
        .collect()
}

/// Runs a command that prepares something, to its end.
pub(crate) fn prepare(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} could not be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, said.trim().lines().last().unwrap_or("it said nothing"));
    }
    Ok(output.stdout)
}

/// Returns a command of git on a work tree whose repository lies elsewhere, so that the tree stays as it is.
pub(crate) fn git(repository: &Path, tree: &Path, arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = peer("git")?;
    command.args(arguments);
    Ok(of_repository(command, repository, tree))
}

/// Returns a command of git that adds and commits a whole tree; one process with its children.
pub(crate) fn git_add_commit(repository: &Path, tree: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "\"$0\" add -A && \"$0\" commit -q -m all"]).arg(find("git")?);
    Ok(of_repository(command, repository, tree))
}

fn of_repository(mut command: Command, repository: &Path, tree: &Path) -> Command {
    command.env("GIT_DIR", repository).env("GIT_WORK_TREE", tree).current_dir(tree);
    for variable in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"] {
        command.env(variable, "/dev/null");
    }
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "bench").env(format!("GIT_{who}_EMAIL"), "bench@example.com");
    }
    // No collection in the background, which would be neither measured nor over.
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "gc.auto").env("GIT_CONFIG_VALUE_0", "0");
    command
}

/// Puts a tree into a new repository.
pub(crate) fn git_commit(repository: &Path, tree: &Path) -> anyhow::Result<()> {
    prepare(&mut git(repository, tree, &["init", "-q"])?)?;
    prepare(&mut git_add_commit(repository, tree)?).map(drop)
}

/// Copies a tree with times, as rsync's own second side.
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    prepare(Command::new("cp").arg("-a").arg(from.join(".")).arg(to)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_peer_names_the_package_that_brings_it() {
        let nowhere = [Path::new("/nonexistent")];
        let error = find_in("nginx", nowhere.into_iter()).unwrap_err().to_string();
        assert_eq!(error, "nginx is not installed: apt-get install nginx-light");
    }

    #[test]
    fn a_broken_peer_is_named_with_what_it_said() {
        let mut broken = Command::new("sh");
        broken.args(["-c", "echo cannot work >&2; exit 3"]);
        let error = prepare(&mut broken).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("cannot work"), "{error}");
    }
}

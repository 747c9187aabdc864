//! `validate_cmd`: a command that looks at new content before it is put in place.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::provider::command::{self, CommandSpec};

/// How long a command may take: Puppet's default for `exec`.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Characters that only a shell understands; as in Ruby, whose `exec` runs Puppet's commands, they bring one in.
const SHELL_CHARACTERS: &str = "*?{}[]<>()~&|\\$;'`\"\n#=";

/// Returns what is wrong with a command.
pub(super) fn check(text: &str) -> Result<(), String> {
    let words = command::split_words(text)?;
    match words.first() {
        Some(program) if program.starts_with('/') => Ok(()),
        _ => Err("must start with an absolute path".to_owned()),
    }
}

/// Runs the command over a staged file. Blocking; needs a tokio runtime around it.
///
/// # Errors
///
/// Why the content was refused, or the command could not be run.
pub(super) fn run(
    text: &str,
    replacement: &str,
    staged: &Path,
    cancel: &CancellationToken,
    show_output: bool,
) -> Result<(), String> {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let path = staged.as_os_str().as_bytes();
    let with_path =
        |text: &str, path: &[u8]| OsString::from_vec(text.split(replacement).map(str::as_bytes).collect::<Vec<_>>().join(path));
    let argv: Vec<OsString> = if needs_shell(text) {
        vec!["/bin/sh".into(), "-c".into(), with_path(text, &quoted(path))]
    } else {
        command::split_words(text)?.iter().map(|word| with_path(word, path)).collect()
    };
    let spec = CommandSpec { argv, time_limit: Some(TIME_LIMIT), ..CommandSpec::default() };
    let handle = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
    let output = handle.block_on(command::run(spec, cancel)).map_err(|error| super::errors::chain(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = if show_output { output.text() } else { String::new() };
    let said = said.trim();
    Err(format!("{}{}{said}", output.status, if said.is_empty() { "" } else { ": " }))
}

fn needs_shell(text: &str) -> bool {
    text.contains(|c| SHELL_CHARACTERS.contains(c))
}

/// Returns a path as one word of a shell command.
fn quoted(path: &[u8]) -> Vec<u8> {
    if path.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-:".contains(byte)) {
        return path.to_vec();
    }
    let mut word = vec![b'\''];
    for &byte in path {
        match byte {
            b'\'' => word.extend_from_slice(b"'\\''"),
            byte => word.push(byte),
        }
    }
    word.push(b'\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_one_word_of_the_shell() {
        assert_eq!(quoted(b"/a/b.c"), b"/a/b.c");
        let word = String::from_utf8(quoted(b"/a b/it's")).unwrap();
        let output = std::process::Command::new("/bin/sh").arg("-c").arg(format!("printf %s {word}")).output().unwrap();
        assert_eq!(output.stdout, b"/a b/it's");
    }

    #[test]
    fn a_shell_comes_in_where_one_is_meant() {
        assert!(needs_shell("/usr/bin/test -s % && /bin/true") && needs_shell("/bin/cat % > /dev/null"));
        assert!(!needs_shell("/usr/sbin/visudo -c -f %"));
        assert!(check("test -s % && true").is_err() && check("/usr/bin/test -s % && true").is_ok());
    }
}

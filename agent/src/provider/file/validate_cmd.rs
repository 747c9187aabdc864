//! `validate_cmd`: a command that looks at new content before it is put in place.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::provider::command::{self, CommandSpec};

/// How long a command may take: Puppet's default for `exec`.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Returns what is wrong with a command, which is run without a shell.
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
    let words = command::split_words(text)?;
    let path = staged.as_os_str().as_bytes();
    let argv: Vec<OsString> = words
        .iter()
        .map(|word| OsString::from_vec(word.split(replacement).map(str::as_bytes).collect::<Vec<_>>().join(path)))
        .collect();
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

//! Whether there is what a command runs: Puppet looks before it runs anything, and says so in these words.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use crate::provider::command::is_executable;

/// Looks for the program of a command on this machine; `search` are the directories of `path`, empty where it is not given.
pub(super) fn look(program: &str, search: &str) -> Result<(), String> {
    if is_clean(program) {
        let Ok(metadata) = std::fs::metadata(program) else { return Err(not_found(program)) };
        return match kind(metadata.file_type()) {
            None if is_executable(program.as_ref()) => Ok(()),
            None => Err(format!("'{program}' is not executable")),
            Some(kind) => Err(format!("'{program}' is a {kind}, not a file")),
        };
    }
    let is_program = |path: &Path| path.is_file() && is_executable(path);
    // What is absolute is looked for by itself, whatever the directory.
    match search.split(':').filter(|_| !search.is_empty()).any(|directory| is_program(&Path::new(directory).join(program))) {
        true => Ok(()),
        false => Err(not_found(program)),
    }
}

fn not_found(program: &str) -> String {
    format!("Could not find command '{program}'")
}

/// Whether a path is absolute and has nothing that could be left out.
fn is_clean(path: &str) -> bool {
    path == "/" || path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|name| !matches!(name, "" | "." | "..")))
}

/// Returns what it is in Ruby's words, unless it is a file.
fn kind(kind: std::fs::FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("directory"),
        kind if kind.is_char_device() => Some("characterSpecial"),
        kind if kind.is_block_device() => Some("blockSpecial"),
        kind if kind.is_fifo() => Some("fifo"),
        kind if kind.is_socket() => Some("socket"),
        _ => Some("unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_words_of_puppet() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "").unwrap();
        let text = text.to_str().unwrap();
        for (program, search, said) in [
            ("/bin/sh", "", None),
            ("sh", "/nonexistent:/bin", None),
            ("sh", "/nonexistent", Some("Could not find command 'sh'")),
            ("cd", "/usr/bin:/bin", Some("Could not find command 'cd'")),
            ("sh", "", Some("Could not find command 'sh'")),
            ("", "/bin", Some("Could not find command ''")),
            ("/bin//sh", "", Some("Could not find command '/bin//sh'")),
            ("/bin//sh", "/nonexistent", None),
            ("/nonexistent/x", "/bin", Some("Could not find command '/nonexistent/x'")),
            ("/tmp", "", Some("'/tmp' is a directory, not a file")),
            ("/dev/null", "", Some("'/dev/null' is a characterSpecial, not a file")),
            (text, "", Some(&*format!("'{text}' is not executable"))),
        ] {
            assert_eq!(look(program, search).err().as_deref(), said, "{program} in {search}");
        }
    }
}

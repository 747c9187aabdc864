//! Files of the agent's own: state, caches, summaries.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{FsError, FsErrorKind};

/// Replaces a file of the agent's own, atomically and durably, with exactly this mode. What a crash leaves is one file with the
/// name and `.new`, overwritten by the next write. Blocking; one writer at a time.
///
/// # Errors
///
/// When the disk does not take it; the old file is still there then.
pub fn write_state(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    write_state_with(path, mode, |file| file.write_all(bytes))
}

/// As [`write_state`], but not durable: after a power cut the file may be old, new or damaged. For what is checked when it is read and
/// can be made again. Blocking.
///
/// # Errors
///
/// As [`write_state`].
pub fn write_cache(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    replace(path, mode, Lasting::Nothing, |file| file.write_all(bytes))
}

/// As [`write_state`], with the content written piece by piece, so that a large one is never in memory whole. Blocking.
///
/// # Errors
///
/// Also those of `fill`.
pub fn write_state_with(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FsError> {
    replace(path, mode, Lasting::All, fill)
}

/// As [`write_state_with`], but not durable before the directory is made so, as by the next [`write_state`] there: after a power cut the file
/// is the old one or the new, and whole. Blocking.
///
/// # Errors
///
/// Also those of `fill`.
pub fn write_whole_with(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FsError> {
    replace(path, mode, Lasting::Content, fill)
}

/// What lasts over a power cut when a file has been replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasting {
    Nothing,
    /// Its content, under the one name or the other.
    Content,
    /// Also its name.
    All,
}

fn replace(
    path: &Path,
    mode: u32,
    lasting: Lasting,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FsError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<()> {
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut writer = BufWriter::new(OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?);
        fill(&mut writer)?;
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        if lasting != Lasting::Nothing {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)?;
        if lasting == Lasting::All { File::open(directory_of(path))?.sync_all() } else { Ok(()) }
    };
    write().map_err(|error| {
        if let Err(left) = std::fs::remove_file(&temporary) {
            tracing::debug!(path = %temporary.display(), error = %left, "nothing to remove after a failed write");
        }
        FsError::new(path, "write", error)
    })
}

/// Returns the directory that holds a path; of a bare name, the working directory.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what interrupted calls of [`write_state`] left in a directory; returns how many. For the one process that owns it,
/// before it writes there. One that is not there has none. Blocking.
///
/// # Errors
///
/// When the directory cannot be listed or something cannot be removed.
pub fn remove_unfinished(dir: &Path) -> Result<u64, FsError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(FsError::new(dir, "list", error)),
    };
    let mut removed = 0;
    for entry in entries {
        let path = entry.map_err(|error| FsError::new(dir, "list", error))?.path();
        if path.extension().is_some_and(|extension| extension == "new") {
            std::fs::remove_file(&path).map_err(|error| FsError::new(&path, "remove what a crash left", error))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Makes a directory of the agent's own, mode 0700, with what is above it; durable but for what is above. One that is there is accepted if it is ours.
/// Blocking.
///
/// # Errors
///
/// When it cannot be made, or belongs to somebody else.
pub fn ensure_private_dir(path: &Path) -> Result<(), FsError> {
    let fail = |error| FsError::new(path, "make the directory", error);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(fail)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            return File::open(directory_of(path)).and_then(|parent| parent.sync_all()).map_err(fail);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(fail(error)),
    }
    let found = std::fs::metadata(path).map_err(fail)?;
    let uid = rustix::process::geteuid();
    if !found.is_dir() {
        return Err(fail(io::Error::other("something that is no directory is there")).with_kind(FsErrorKind::WrongKind, None));
    }
    if !uid.is_root() && found.uid() != uid.as_raw() {
        let error = fail(io::Error::other(format!("it belongs to user {}", found.uid())));
        return Err(error.with_kind(FsErrorKind::Denied, Some("choose a directory of your own")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_file_is_replaced_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        std::fs::write(dir.path().join("state.new"), "left by a crash").unwrap();
        for text in ["one", "two"] {
            write_state(&path, text.as_bytes(), 0o640).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_bare_name_is_in_the_working_directory() {
        assert_eq!(directory_of(Path::new("today.plan")), Path::new("."));
        assert_eq!(directory_of(Path::new("a/today.plan")), Path::new("a"));
        assert_eq!(directory_of(Path::new("/today.plan")), Path::new("/"));
    }

    #[test]
    fn a_private_directory_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        ensure_private_dir(&path).unwrap();
        ensure_private_dir(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(ensure_private_dir(&dir.path().join("file")).unwrap_err().kind, FsErrorKind::WrongKind);
    }
}

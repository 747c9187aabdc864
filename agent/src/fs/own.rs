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
    replace(path, mode, false, |file| file.write_all(bytes))
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
    replace(path, mode, true, fill)
}

/// Files of the agent's own, in one directory, that are replaced together: all are written beside their places, then their contents made
/// durable, then each renamed, then their names made durable. After a power cut each is the old one or the new, and whole.
///
/// What is dropped before [`StateFiles::replace`] leaves the old ones as they are.
#[derive(Debug)]
pub struct StateFiles {
    dir: PathBuf,
    written: Vec<Beside>,
}

impl StateFiles {
    /// Starts with none.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        Self { dir: dir.to_owned(), written: Vec::new() }
    }

    /// Writes the new content of a file, with exactly this mode, beside its place; each name once. Blocking.
    ///
    /// # Errors
    ///
    /// When the disk does not take it; also those of `fill`.
    pub fn write(
        &mut self,
        name: &str,
        mode: u32,
        fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), FsError> {
        let path = self.dir.join(name);
        self.written.push(Beside::write(&path, mode, fill).map_err(|error| FsError::new(&path, "write", error))?);
        Ok(())
    }

    /// Puts all in place, in the order in which they were written. Blocking.
    ///
    /// # Errors
    ///
    /// When the disk does not take it; those that were not renamed by then are the old ones.
    pub fn replace(self) -> Result<(), FsError> {
        for file in &self.written {
            file.sync().map_err(|error| FsError::new(&file.path, "make durable the content of", error))?;
        }
        for file in self.written {
            let path = file.path.clone();
            file.rename().map_err(|error| FsError::new(&path, "write", error))?;
        }
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| FsError::new(&self.dir, "make durable the names in", error))
    }
}

/// A file that was written beside its place; removed when it is dropped.
#[derive(Debug)]
struct Beside {
    path: PathBuf,
    temporary: PathBuf,
    file: Option<File>,
}

impl Beside {
    fn write(path: &Path, mode: u32, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        let mut beside = Self { path: path.to_owned(), temporary: PathBuf::from(temporary), file: None };
        let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside.temporary);
        let file = create().or_else(|error| match error.kind() {
            // What a crash left there is of no use, and could have other permissions.
            io::ErrorKind::AlreadyExists => std::fs::remove_file(&beside.temporary).and_then(|()| create()),
            _ => Err(error),
        });
        let mut writer = BufWriter::new(file?);
        fill(&mut writer)?;
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        beside.file = Some(file);
        Ok(beside)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_all)
    }

    fn rename(mut self) -> io::Result<()> {
        std::fs::rename(&self.temporary, &self.path)?;
        self.temporary = PathBuf::new();
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if self.temporary.as_os_str().is_empty() {
            return;
        }
        if let Err(left) = std::fs::remove_file(&self.temporary) {
            tracing::debug!(path = %self.temporary.display(), error = %left, "nothing to remove after a failed write");
        }
    }
}

fn replace(
    path: &Path,
    mode: u32,
    is_lasting: bool,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FsError> {
    let write = || -> io::Result<()> {
        let beside = Beside::write(path, mode, fill)?;
        if is_lasting {
            beside.sync()?;
        }
        beside.rename()?;
        if is_lasting { File::open(directory_of(path))?.sync_all() } else { Ok(()) }
    };
    write().map_err(|error| FsError::new(path, "write", error))
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
    fn files_are_replaced_together_or_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let write = |version: &'static str| {
            let mut files = StateFiles::new(dir.path());
            files.write("a", 0o600, |file| file.write_all(version.as_bytes())).unwrap();
            files.write("b", 0o640, |file| file.write_all(version.as_bytes())).unwrap();
            files
        };
        write("one").replace().unwrap();
        drop(write("given up"));
        assert_eq!([read("a"), read("b")], ["one", "one"]);
        let mut failing = write("two");
        failing.write("c", 0o600, |_| Err(io::Error::other("no more"))).unwrap_err();
        drop(failing);
        assert_eq!([read("a"), read("b")], ["one", "one"]);
        write("three").replace().unwrap();
        assert_eq!([read("a"), read("b")], ["three", "three"]);
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!([mode("a"), mode("b")], [0o600, 0o640]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside them");
        // What cannot be put in place leaves those that follow as they are.
        let files = write("four");
        std::fs::remove_file(dir.path().join("a")).unwrap();
        std::fs::create_dir_all(dir.path().join("a/full")).unwrap();
        assert!(files.replace().unwrap_err().path.ends_with("a"));
        assert_eq!(read("b"), "three");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
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

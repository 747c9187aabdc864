//! Whether anybody may change what is about to run as this user.

use std::fs::{Metadata, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use walkdir::WalkDir;

/// Most entries of a library directory that are looked at.
const MOST_ENTRIES: usize = 200_000;

/// Refuses a program that anybody may write to or put another in the place of. Blocking.
pub(super) fn program(path: &Path) -> io::Result<()> {
    above(path)?;
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return refuse(path, "it is no program that can be started");
    }
    Ok(())
}

/// Refuses a directory with Ruby code of which anybody may write to a part, or put another in its place. Blocking.
pub(super) fn library(dir: &Path) -> io::Result<()> {
    above(dir)?;
    if !std::fs::metadata(dir)?.is_dir() {
        return refuse(dir, "it is no directory");
    }
    for (count, entry) in WalkDir::new(dir).follow_links(true).into_iter().enumerate() {
        let entry = match entry {
            Ok(entry) => entry,
            // A link to a directory above, which is looked at already, and one that leads nowhere.
            Err(error) if error.loop_ancestor().is_some() => continue,
            Err(error) if error.io_error().is_some_and(leads_nowhere) => continue,
            Err(error) => return Err(error.into()),
        };
        if count > MOST_ENTRIES {
            return refuse(dir, "it has more than 200,000 entries: name a directory of libraries alone");
        }
        if entry.path_is_symlink() {
            above(entry.path())?;
        }
        if is_open(&entry.metadata().map_err(io::Error::from)?.permissions()) {
            return refuse(entry.path(), "anybody may write to it: take that permission away");
        }
    }
    Ok(())
}

fn leads_nowhere(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::LOOP))
}

/// Looks at a path and all directories above, as it is written and as links lead.
fn above(path: &Path) -> io::Result<()> {
    let absolute = std::path::absolute(path)?;
    let real = std::fs::canonicalize(path)?;
    for whole in [absolute, real] {
        for (height, place) in whole.ancestors().enumerate() {
            let metadata = std::fs::metadata(place)?;
            if is_open(&metadata.permissions()) && !(height > 0 && is_sticky(&metadata)) {
                return refuse(place, "anybody may write to it: take that permission away");
            }
        }
    }
    Ok(())
}

fn is_open(permissions: &Permissions) -> bool {
    permissions.mode() & 0o002 != 0
}

/// In such a directory nobody removes or renames what is another's.
fn is_sticky(metadata: &Metadata) -> bool {
    metadata.is_dir() && metadata.permissions().mode() & 0o1000 != 0
}

fn refuse<T>(path: &Path, reason: &str) -> io::Result<T> {
    let path: PathBuf = path.to_owned();
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{}: {reason}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_anybody_may_change_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let library_dir = dir.path().join("lib");
        let types = library_dir.join("puppet/type");
        fs::create_dir_all(&types).unwrap();
        let file = types.join("level.rb");
        fs::write(&file, "").unwrap();
        let ruby = dir.path().join("ruby");
        fs::write(&ruby, "#!/bin/sh\n").unwrap();
        set(&ruby, 0o755);
        library(&library_dir).unwrap();
        program(&ruby).unwrap();
        for open in [&file, &types, &library_dir, &dir.path().to_owned()] {
            let before = fs::metadata(open).unwrap().permissions();
            set(open, 0o777);
            let error = library(&library_dir).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{}: anybody may write to it", open.display())), "{error}");
            assert_eq!(program(&ruby).is_ok(), *open != dir.path(), "{}", open.display());
            fs::set_permissions(open, before).unwrap();
        }
        // Through a link, what it leads to counts too.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&library_dir, &link).unwrap();
        library(&link).unwrap();
        set(&library_dir, 0o777);
        assert!(library(&link).is_err());
        set(&library_dir, 0o755);
        // So does what a link in it leads to, be it a file or a directory; where one leads in a circle or nowhere, nothing does.
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("other.rb"), "").unwrap();
        for (name, target) in [("other.rb", elsewhere.join("other.rb")), ("more", elsewhere.clone())] {
            std::os::unix::fs::symlink(&target, types.join(name)).unwrap();
            library(&library_dir).unwrap();
            set(&target, 0o777);
            assert!(library(&library_dir).is_err(), "{name}");
            set(&target, 0o755);
        }
        set(&elsewhere, 0o777);
        assert!(library(&library_dir).is_err());
        set(&elsewhere, 0o755);
        std::os::unix::fs::symlink(&library_dir, types.join("circle")).unwrap();
        for (name, target) in [("nowhere", "not there"), ("itself", "itself")] {
            std::os::unix::fs::symlink(target, types.join(name)).unwrap();
        }
        library(&library_dir).unwrap();
        // As in /tmp.
        set(dir.path(), 0o1777);
        library(&library_dir).unwrap();
        set(&ruby, 0o757);
        assert!(program(&ruby).is_err());
        set(&ruby, 0o644);
        assert!(program(&ruby).unwrap_err().to_string().ends_with("no program that can be started"));
        assert!(library(&ruby).unwrap_err().to_string().ends_with("it is no directory"));
        assert!(library(&dir.path().join("missing")).is_err());
    }
}

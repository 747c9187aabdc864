//! Listing a tree.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use direct_puppet_transport::protocol::TreePath;
use walkdir::{DirEntry, WalkDir};

use crate::fs::{FileKind, Stat, Time};

/// Says of a path and its kind whether it is left out.
pub type Ignore<'a> = &'a dyn Fn(&TreePath, FileKind) -> bool;

/// How to list.
#[derive(Default)]
pub struct WalkOptions<'a> {
    /// How many levels below the directory; `None` for all, 1 for its own entries only.
    pub max_depth: Option<usize>,
    /// Whether to stay on the file system of the directory: a mount point is then listed, what is mounted there is not.
    pub same_file_system: bool,
    /// Leaves out what it says yes to, and a directory with all that it holds.
    pub ignore: Option<Ignore<'a>>,
}

impl fmt::Debug for WalkOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalkOptions")
            .field("max_depth", &self.max_depth)
            .field("same_file_system", &self.same_file_system)
            .field("ignore", &self.ignore.is_some())
            .finish()
    }
}

/// One object of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Where, relative to the listed directory.
    pub path: TreePath,
    /// Its metadata; [`Stat::kind`] says what it is (sockets, devices and fifos are `Other`).
    pub stat: Stat,
    /// Where it points, for a symbolic link.
    pub target: Option<Vec<u8>>,
}

/// An object that could not be listed; its neighbours are.
#[derive(Debug)]
pub struct UnlistedEntry {
    /// Where, as far as known, with the listed directory in front.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Tree {
    /// Everything below the directory (not itself), sorted by path.
    pub entries: Vec<TreeEntry>,
    /// What could not be listed: an incomplete tree must not be taken for one where this is absent.
    pub unlisted: Vec<UnlistedEntry>,
}

/// The directory itself could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("could not list {}", path.display())]
pub struct WalkError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Lists everything below `dir` without following a symbolic link, `dir` itself included.
///
/// It walks by name: while others can rename directories below `dir` the list may be a mixture, so whoever acts on an entry opens
/// it anew, beneath a descriptor.
///
/// # Errors
///
/// When `dir` is no directory or cannot be read. What concerns one entry is in [`Tree::unlisted`].
///
/// # Blocking
///
/// Reads directories.
pub fn list_tree(dir: &Path, options: &WalkOptions<'_>) -> Result<Tree, WalkError> {
    let failed = |source| WalkError { path: dir.to_owned(), source };
    if !std::fs::symlink_metadata(dir).map_err(failed)?.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::NotADirectory)));
    }
    let walk = WalkDir::new(dir)
        .follow_links(false)
        .follow_root_links(false)
        .same_file_system(options.same_file_system)
        .max_depth(options.max_depth.unwrap_or(usize::MAX));
    let mut tree = Tree::default();
    for entry in walk.into_iter().filter_entry(|entry| !is_ignored(dir, entry, options)) {
        match entry.map_err(|error| (error.depth(), unlisted(dir, error))) {
            Ok(entry) if entry.depth() == 0 => {}
            Ok(entry) => match describe(dir, &entry) {
                Ok(entry) => tree.entries.push(entry),
                Err(source) => tree.unlisted.push(UnlistedEntry { path: entry.into_path(), source }),
            },
            // Depth 0 with no entries: the directory itself cannot be read.
            Err((0, error)) => return Err(failed(error.source)),
            Err((_, error)) => tree.unlisted.push(error),
        }
    }
    tree.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(tree)
}

fn unlisted(dir: &Path, error: walkdir::Error) -> UnlistedEntry {
    let path = error.path().unwrap_or(dir).to_owned();
    let source = error.into_io_error().unwrap_or_else(|| io::Error::other("the tree contains itself"));
    UnlistedEntry { path, source }
}

fn is_ignored(dir: &Path, entry: &DirEntry, options: &WalkOptions<'_>) -> bool {
    let (Some(ignore), 1..) = (options.ignore, entry.depth()) else { return false };
    let kind = entry.file_type();
    let kind = match () {
        () if kind.is_dir() => FileKind::Directory,
        () if kind.is_file() => FileKind::File,
        () if kind.is_symlink() => FileKind::Link,
        () => FileKind::Other,
    };
    // A path that is too long is not ignored, so that it is named among the unlisted.
    path_of(dir, entry).is_ok_and(|path| ignore(&path, kind))
}

fn path_of(dir: &Path, entry: &DirEntry) -> io::Result<TreePath> {
    let relative = entry.path().strip_prefix(dir).map_err(io::Error::other)?;
    TreePath::from_path(relative).map_err(io::Error::other)
}

fn describe(dir: &Path, entry: &DirEntry) -> io::Result<TreeEntry> {
    let metadata = entry.metadata().map_err(io::Error::from)?;
    let target = match metadata.is_symlink() {
        true => Some(std::fs::read_link(entry.path())?.as_os_str().as_bytes().to_vec()),
        false => None,
    };
    Ok(TreeEntry { path: path_of(dir, entry)?, stat: stat_from(&metadata), target })
}

fn stat_from(metadata: &std::fs::Metadata) -> Stat {
    let time = |seconds, nanos| Time { seconds, nanos: u32::try_from(nanos).unwrap_or(0) };
    Stat {
        dev: metadata.dev(),
        ino: metadata.ino(),
        size: metadata.size(),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        mode: metadata.mode(),
        uid: metadata.uid(),
        gid: metadata.gid(),
        nlink: metadata.nlink(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tree: &Tree) -> Vec<String> {
        tree.entries.iter().map(|entry| entry.path.to_string()).collect()
    }

    #[test]
    fn lists_in_path_order_and_follows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/f"), b"12345").unwrap();
        std::fs::write(root.join("a.c"), b"").unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        std::os::unix::fs::symlink(&root, dir.path().join("to-root")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let tree = list_tree(&root, &WalkOptions::default()).unwrap();
        drop(socket);
        assert_eq!(names(&tree), ["a", "a/b", "a/b/f", "a.c", "link", "socket"]);
        assert!(tree.unlisted.is_empty());
        assert_eq!(tree.entries[2].stat.size, 5);
        assert_eq!(tree.entries[4].target.as_deref(), Some(&b"../outside"[..]));
        assert_eq!(tree.entries[5].stat.kind(), FileKind::Other);
        let error = list_tree(&dir.path().join("to-root"), &WalkOptions::default()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn depth_and_ignore_prune() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("keep/deep")).unwrap();
        std::fs::create_dir_all(dir.path().join(".git/objects")).unwrap();
        let ignore = |path: &TreePath, kind| kind == FileKind::Directory && path.name() == Some(b".git");
        let options = WalkOptions { ignore: Some(&ignore), ..WalkOptions::default() };
        assert_eq!(names(&list_tree(dir.path(), &options).unwrap()), ["keep", "keep/deep"]);
        let options = WalkOptions { max_depth: Some(1), ..WalkOptions::default() };
        assert_eq!(names(&list_tree(dir.path(), &options).unwrap()), [".git", "keep"]);
    }
}

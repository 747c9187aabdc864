//! Listing a tree.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use direct_puppet_transport::protocol::TreePath;
use rayon::prelude::*;
use rustix::io::Errno;
use walkdir::{DirEntry, WalkDir};

use super::Pool;
use super::dir::{Dir, RootDir};
use crate::fs::{FileKind, Stat};

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

/// Entries that one thread describes at a time: enough for a directory's descriptor to be used often.
const AT_ONCE: usize = 512;

/// How many entries are in a piece.
const PIECE: usize = 16 * AT_ONCE;

/// Lists everything below `dir` without following a symbolic link, `dir` itself included. Names are read one directory after the
/// other; metadata is read on `pool`, by descriptor of the parent.
///
/// While others rename directories below `dir` the list may be a mixture, so whoever acts on an entry opens it anew, beneath a
/// descriptor.
///
/// # Errors
///
/// When `dir` is no directory or cannot be read. What concerns one entry is in [`Tree::unlisted`].
///
/// # Blocking
///
/// Reads directories.
pub fn list_tree(dir: &Path, options: &WalkOptions<'_>, pool: &Pool) -> Result<Tree, WalkError> {
    let mut entries = Vec::new();
    let unlisted = list_in_pieces(dir, options, pool, |piece| {
        entries.extend(piece);
        Ok::<_, WalkError>(())
    })?;
    Ok(Tree { entries, unlisted })
}

/// Lists as [`list_tree`] does, and gives the entries to `each` a piece at a time, all in the order of paths: what is in memory at once is a
/// piece, and the names in the directories that lead to it. Returns what could not be listed.
///
/// # Errors
///
/// As [`list_tree`], and the first error of `each`, which ends the listing.
///
/// # Blocking
///
/// Reads directories.
pub fn list_in_pieces<E: From<WalkError>>(
    dir: &Path,
    options: &WalkOptions<'_>,
    pool: &Pool,
    mut each: impl FnMut(Vec<TreeEntry>) -> Result<(), E>,
) -> Result<Vec<UnlistedEntry>, E> {
    let failed = |source| WalkError { path: dir.to_owned(), source };
    if !std::fs::symlink_metadata(dir).map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()).into());
    }
    let root = RootDir::open(dir).map_err(|errno| failed(errno.into()))?;
    let walk = WalkDir::new(dir)
        .follow_links(false)
        .follow_root_links(false)
        .same_file_system(options.same_file_system)
        .max_depth(options.max_depth.unwrap_or(usize::MAX))
        // Neighbours have the same parent, so this orders by name; with each directory before what it holds, that is path order.
        .sort_by(|a, b| bytes_of(a.path()).cmp(bytes_of(b.path())));
    let mut all_unlisted = Vec::new();
    let mut describe = |found: &mut Vec<TreePath>, all_unlisted: &mut Vec<UnlistedEntry>| {
        let described: Vec<Result<TreeEntry, UnlistedEntry>> =
            pool.install(|| found.par_chunks_mut(AT_ONCE).flat_map_iter(|paths| describe_all(dir, &root, paths)).collect());
        let mut piece = Vec::with_capacity(found.len());
        for entry in described {
            match entry {
                Ok(entry) => piece.push(entry),
                Err(error) => all_unlisted.push(error),
            }
        }
        found.clear();
        each(piece)
    };
    let mut found = Vec::with_capacity(PIECE);
    // Of the entry that was looked at last: each is looked at just before it comes.
    let looked_at = Cell::new(None);
    let is_wanted = |entry: &DirEntry| {
        let path = path_of(dir, entry);
        // A path that is too long is not ignored, so that it is named among the unlisted.
        let is_wanted = !path.as_ref().is_ok_and(|path| is_ignored(path, entry, options));
        looked_at.set(Some(path));
        is_wanted
    };
    for entry in walk.into_iter().filter_entry(is_wanted) {
        match entry.map_err(|error| (error.depth(), unlisted(dir, error))) {
            Ok(entry) if entry.depth() == 0 => {}
            Ok(entry) => match looked_at.take().unwrap_or_else(|| path_of(dir, &entry)) {
                Ok(path) => found.push(path),
                Err(source) => all_unlisted.push(UnlistedEntry { path: entry.into_path(), source }),
            },
            // Depth 0 with no entries: the directory itself cannot be read.
            Err((0, error)) => return Err(failed(error.source).into()),
            Err((_, error)) => all_unlisted.push(error),
        }
        if found.len() == PIECE {
            describe(&mut found, &mut all_unlisted)?;
        }
    }
    describe(&mut found, &mut all_unlisted)?;
    Ok(all_unlisted)
}

fn bytes_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Reads the metadata of paths that stand in path order, and takes them.
fn describe_all(dir: &Path, root: &RootDir, paths: &mut [TreePath]) -> Vec<Result<TreeEntry, UnlistedEntry>> {
    let mut parent: Option<(TreePath, Option<Dir<'_>>)> = None;
    let mut describe = |path: &TreePath| -> Result<(Stat, Option<Vec<u8>>), Errno> {
        let name = path.name().ok_or(Errno::INVAL)?;
        let above = path.parent_bytes();
        if parent.as_ref().is_none_or(|(open, _)| open.as_bytes() != above) {
            let above = path.parent().unwrap_or_default();
            let open = root.dir(&above)?;
            parent = Some((above, open));
        }
        let open = parent.as_ref().and_then(|(_, open)| open.as_ref()).ok_or(Errno::NOENT)?;
        let stat = open.stat(name)?.ok_or(Errno::NOENT)?;
        let target = match stat.kind() {
            FileKind::Link => Some(open.read_link(name)?),
            _ => None,
        };
        Ok((stat, target))
    };
    let described = paths.iter_mut().map(std::mem::take).map(|path| match describe(&path) {
        Ok((stat, target)) => Ok(TreeEntry { path, stat, target }),
        Err(errno) => Err(UnlistedEntry { path: dir.join(path.as_path()), source: errno.into() }),
    });
    described.collect()
}

fn unlisted(dir: &Path, error: walkdir::Error) -> UnlistedEntry {
    let path = error.path().unwrap_or(dir).to_owned();
    let source = error.into_io_error().unwrap_or_else(|| io::Error::other("the tree contains itself"));
    UnlistedEntry { path, source }
}

fn is_ignored(path: &TreePath, entry: &DirEntry, options: &WalkOptions<'_>) -> bool {
    let (Some(ignore), 1..) = (options.ignore, entry.depth()) else { return false };
    let kind = entry.file_type();
    let kind = match () {
        () if kind.is_dir() => FileKind::Directory,
        () if kind.is_file() => FileKind::File,
        () if kind.is_symlink() => FileKind::Link,
        () => FileKind::Other,
    };
    ignore(path, kind)
}

fn path_of(dir: &Path, entry: &DirEntry) -> io::Result<TreePath> {
    // The walk puts names behind `dir` as it was given.
    let relative = bytes_of(entry.path()).strip_prefix(bytes_of(dir)).unwrap_or_default();
    TreePath::from_bytes(relative.strip_prefix(b"/").unwrap_or(relative)).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(2).unwrap()
    }

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
        let tree = list_tree(&root, &WalkOptions::default(), &pool()).unwrap();
        drop(socket);
        assert_eq!(names(&tree), ["a", "a/b", "a/b/f", "a.c", "link", "socket"]);
        assert!(tree.unlisted.is_empty());
        assert_eq!(tree.entries[2].stat.size, 5);
        assert_eq!(tree.entries[4].target.as_deref(), Some(&b"../outside"[..]));
        assert_eq!(tree.entries[5].stat.kind(), FileKind::Other);
        let error = list_tree(&dir.path().join("to-root"), &WalkOptions::default(), &pool()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn depth_and_ignore_prune() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("keep/deep")).unwrap();
        std::fs::create_dir_all(dir.path().join(".git/objects")).unwrap();
        let ignore = |path: &TreePath, kind| kind == FileKind::Directory && path.name() == Some(b".git");
        let options = WalkOptions { ignore: Some(&ignore), ..WalkOptions::default() };
        assert_eq!(names(&list_tree(dir.path(), &options, &pool()).unwrap()), ["keep", "keep/deep"]);
        let options = WalkOptions { max_depth: Some(1), ..WalkOptions::default() };
        assert_eq!(names(&list_tree(dir.path(), &options, &pool()).unwrap()), [".git", "keep"]);
    }

    #[test]
    fn many_entries_of_every_depth_stand_in_path_order() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..3_000_u32 {
            let below = dir.path().join(["a", "a.b", "a/b", "a b/é", "-"][number as usize % 5]);
            std::fs::create_dir_all(&below).unwrap();
            std::fs::write(below.join(format!("{}", number.wrapping_mul(2_654_435_761))), number.to_string()).unwrap();
        }
        let mut root = dir.path().to_owned();
        // However the directory is written.
        for _ in 0..2 {
            let tree = list_tree(&root, &WalkOptions::default(), &pool()).unwrap();
            assert!(tree.unlisted.is_empty());
            assert_eq!(tree.entries.iter().filter(|entry| entry.stat.kind() == FileKind::File).count(), 3_000);
            assert!(tree.entries.is_sorted_by(|a, b| a.path < b.path));
            root.push("");
        }
    }
}

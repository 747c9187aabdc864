//! Text files of which a resource manages a part: read whole, replaced whole, owner and mode kept.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::{Digest, TreePath};

use super::file::{backup, errors};
use super::{Context, Ownership};
use crate::fs::{Attributes, ContentSource, FsError, FsErrorKind, Stage, Stat};
use crate::undo::{Left, Previous, UndoEntry};

/// Longest file that is read, in bytes: it is held in memory, and parsed.
const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;

/// How old a change must be to be told from a later one by its time: more than a tick of any kernel's coarse clock.
const TICK: Duration = Duration::from_millis(50);

/// A file as it was read.
#[derive(Debug)]
pub(super) struct TextFile {
    pub(super) path: TreePath,
    /// `None` when there is no such file.
    pub(super) stat: Option<Stat>,
    pub(super) text: Vec<u8>,
}

impl TextFile {
    /// Reads a file; one that is not there is empty. Blocking.
    pub(super) fn load(context: &Context, path: &TreePath) -> Result<Self, FsError> {
        let root = context.root();
        let Some(stat) = root.stat(path)? else {
            return Ok(Self { path: path.clone(), stat: None, text: Vec::new() });
        };
        let too_long = || {
            let error = std::io::Error::other(format!("it is longer than {MAX_TEXT_BYTES} bytes"));
            errors::io(root, path, "read", error)
        };
        if stat.size > MAX_TEXT_BYTES {
            return Err(too_long());
        }
        let mut text = Vec::new();
        let file = root.open_file(path)?;
        file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut text).map_err(|error| errors::io(root, path, "read", error))?;
        // A file may grow while it is read.
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_TEXT_BYTES) {
            Err(too_long())
        } else {
            Ok(Self { path: path.clone(), stat: Some(stat), text })
        }
    }

    /// Puts another text in place, if it is another, atomically and durably; what was there is kept for undo. Owner and mode
    /// stay, but for what `attributes` says; a new file without a mode gets 0644. Blocking.
    pub(super) fn replace(&self, context: &Context, text: Vec<u8>, attributes: Attributes) -> Result<(), FsError> {
        let unchanged = self.stat.is_some_and(|stat| attributes.mode.is_none_or(|mode| mode == stat.permissions()));
        if unchanged && text == self.text {
            return Ok(());
        }
        if context.holds_own_state(&self.path) {
            let error = std::io::Error::other("the agent's own state is there");
            return Err(errors::io(context.root(), &self.path, "replace", error));
        }
        let managed = context.options().ownership == Ownership::Managed;
        let keep = |wanted: Option<u32>, old: Option<u32>| wanted.or(old).filter(|_| managed);
        let attributes = Attributes {
            mode: attributes.mode.or(self.stat.map(|stat| stat.permissions())),
            uid: keep(attributes.uid, self.stat.map(|stat| stat.uid)),
            gid: keep(attributes.gid, self.stat.map(|stat| stat.gid)),
        };
        let digest = Digest::of(&text);
        self.keep(context, digest)?;
        let mut stage = Stage::new(context.root(), context.stage_journal());
        stage.add(&self.path, ContentSource::Bytes(Bytes::from(text)), digest, attributes)?;
        stage.commit().into_iter().try_for_each(|(_, written)| written.map(drop))
    }

    /// Keeps what is there, and refuses when it is not what was read any more.
    fn keep(&self, context: &Context, digest: Digest) -> Result<(), FsError> {
        let previous = match self.stat {
            None => Previous::Absent,
            Some(stat) => {
                let kept = backup::put(context, &self.path)?;
                if kept != Digest::of(&self.text) {
                    let error = std::io::Error::other("somebody else has changed it meanwhile");
                    let error = errors::io(context.root(), &self.path, "replace", error);
                    return Err(error.with_kind(FsErrorKind::Other, Some("the next run does it")));
                }
                context.store().sync()?;
                Previous::File { digest: kept, mode: stat.permissions(), uid: stat.uid, gid: stat.gid }
            }
        };
        context.record_undo(&[UndoEntry { path: self.path.clone(), previous, left: Left::File { digest } }])
    }
}

/// What was made of a file, and of which.
#[derive(Debug)]
struct Remembered<T> {
    /// The root that it is below.
    root: PathBuf,
    stat: Option<Stat>,
    parsed: Arc<T>,
}

/// Parsed files by path, read again when they have changed: a catalog often has many resources in one file.
#[derive(Debug)]
pub(super) struct TextCache<T> {
    files: Mutex<HashMap<TreePath, Remembered<T>, FastState>>,
}

impl<T> Default for TextCache<T> {
    fn default() -> Self {
        Self { files: Mutex::default() }
    }
}

impl<T> TextCache<T> {
    /// Returns what `parse` makes of a file. Blocking.
    pub(super) fn load(&self, context: &Context, path: &TreePath, parse: impl FnOnce(&[u8]) -> T) -> Result<Arc<T>, FsError> {
        let root = context.root().path();
        let stat = context.stat(path)?;
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |known: &&Remembered<T>| known.stat == stat && known.root.as_os_str() == root.as_os_str();
        if let Some(known) = files.get(path).filter(is_it) {
            return Ok(Arc::clone(&known.parsed));
        }
        let file = TextFile::load(context, path)?;
        let parsed = Arc::new(parse(&file.text));
        if file.stat.is_none_or(|stat| is_settled(&stat)) {
            let remembered = Remembered { root: root.to_owned(), stat: file.stat, parsed: Arc::clone(&parsed) };
            files.insert(path.clone(), remembered);
        } else {
            files.remove(path);
        }
        Ok(parsed)
    }
}

/// Returns whether a change after now would show in the times.
pub(super) fn is_settled(stat: &Stat) -> bool {
    let seconds = u64::try_from(stat.ctime.seconds).unwrap_or_default();
    let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, stat.ctime.nanos);
    SystemTime::now().duration_since(changed).is_ok_and(|age| age > TICK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::tests::World;

    fn path(text: &str) -> TreePath {
        TreePath::from_absolute(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_file_is_replaced_with_its_mode() {
        let world = World::new();
        world.write("/etc/x", "old\n");
        world.chmod("/etc/x", 0o600);
        let context = world.context();
        let file = TextFile::load(&context, &path("/etc/x")).unwrap();
        file.replace(&context, b"new\n".to_vec(), Attributes::default()).unwrap();
        assert_eq!((world.read("/etc/x").as_str(), world.mode("/etc/x")), ("new\n", 0o600));
        let Some(Previous::File { digest, mode: 0o600, .. }) = world.previous("/etc/x") else { panic!("not kept") };
        assert_eq!(digest, Digest::of(b"old\n"));
        let again = TextFile::load(&context, &path("/etc/x")).unwrap();
        again.replace(&context, b"new\n".to_vec(), Attributes::default()).unwrap();
        assert_eq!(world.undo_entries().len(), 1, "nothing was written the second time");
    }

    #[test]
    fn a_new_file_gets_the_mode_that_is_asked_for() {
        let world = World::new();
        let context = world.context();
        let file = TextFile::load(&context, &path("/x")).unwrap();
        file.replace(&context, Vec::new(), Attributes { mode: Some(0o640), ..Attributes::default() }).unwrap();
        assert_eq!(world.mode("/x"), 0o640);
        assert_eq!(world.previous("/x"), Some(Previous::Absent));
    }

    #[test]
    fn what_others_changed_meanwhile_is_not_replaced() {
        let world = World::new();
        world.write("/x", "old");
        let context = world.context();
        let file = TextFile::load(&context, &path("/x")).unwrap();
        world.write("/x", "other");
        let error = file.replace(&context, b"new".to_vec(), Attributes::default()).unwrap_err();
        assert!(error.source.to_string().contains("meanwhile"), "{error}");
        assert_eq!(world.read("/x"), "other");
    }

    #[test]
    fn links_and_directories_are_not_read() {
        let world = World::new();
        world.write("/real", "x");
        world.link("/link", "real");
        world.mkdir("/dir");
        let context = world.context();
        assert!(TextFile::load(&context, &path("/link")).is_err());
        assert!(TextFile::load(&context, &path("/dir")).is_err());
        assert_eq!(TextFile::load(&context, &path("/none/x")).unwrap().stat, None);
    }

    #[test]
    fn a_changed_file_is_parsed_again() {
        let world = World::new();
        let context = world.context();
        let cache = TextCache::default();
        for text in ["one", "two", "two!"] {
            world.write("/x", text);
            let parsed = cache.load(&context, &path("/x"), |text| text.to_vec()).unwrap();
            assert_eq!(*parsed, text.as_bytes());
        }
    }
}

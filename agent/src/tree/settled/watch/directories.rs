//! Which directories are watched, and what a note of one of them is about.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::super::super::dir::{RootDir, stat_of_name};
use super::super::format::{Encoded, Place, is_listed_directory, name_length};
use super::WatchError;

/// Most directories of one watch.
const MOST_DIRECTORIES: usize = 65_536;

/// What is told of a directory that paths only go through: what becomes of names in it. Files there may be written to as often as they like.
const NAMES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK)
    // It may be another directory's too, where something is mounted twice.
    .union(WatchFlags::MASK_ADD);

/// What is told of one that holds entries: that, and writing; the end of writing tells of mappings too.
const ALL: WatchFlags = NAMES.union(WatchFlags::MODIFY).union(WatchFlags::CLOSE_WRITE);

/// Types of file systems (`f_type` of statfs(2), magic.h of Linux) whose changes all go through this kernel: ext2 to ext4, XFS, Btrfs,
/// tmpfs, F2FS, overlayfs, ZFS, bcachefs.
const LOCAL: [u64; 8] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010, 0x794c_7630, 0x2fc1_2fc1, 0xca45_1a4e];

/// The watched directories, by the kernel's number. One has several paths where something is mounted twice.
#[derive(Debug)]
pub(super) struct Directories(HashMap<i32, Vec<Directory>>);

#[derive(Debug)]
struct Directory {
    /// Below the root; `.` for the root itself.
    path: Vec<u8>,
    /// What is of interest in it.
    wanted: Wanted,
}

/// What a directory is watched for.
#[derive(Debug, Default)]
struct Wanted {
    /// Names in it through which paths to other directories go, there or not.
    crossings: HashSet<Box<[u8]>>,
    /// Whether something else in it counts.
    has_entries: bool,
}

impl Directories {
    /// Watches every directory of the record, and those on the way. A directory that is not there shows in the nearest that is.
    pub(super) fn watch(kernel: &OwnedFd, root: &RootDir, record: &Encoded) -> Result<Self, WatchError> {
        let wanted = wanted(record).ok_or(WatchError::TooMany(MOST_DIRECTORIES))?;
        let mut watched: HashMap<i32, Vec<Directory>> = HashMap::new();
        // A directory comes after those above it, so that what happens to it while this goes on is noted there.
        let root_first = |(path, _): &(Vec<u8>, _)| path != b".";
        let mut wanted: Vec<_> = wanted.into_iter().collect();
        wanted.sort_by_key(root_first);
        for (path, wanted) in wanted {
            let shown = || Path::new(OsStr::from_bytes(&path)).display().to_string();
            let failed = |source: Errno| match source {
                Errno::NOSPC => WatchError::TooFew(watched.len()),
                _ => WatchError::Kernel { what: shown(), source: source.into() },
            };
            let opened = match root.open_beneath(path.as_slice()) {
                Err(Errno::NOENT) => continue,
                opened => opened.map_err(failed)?,
            };
            let file_system = rustix::fs::fstatfs(&opened).map_err(failed)?.f_type;
            #[allow(
                clippy::cast_sign_loss,
                clippy::cast_possible_truncation,
                clippy::unnecessary_cast,
                reason = "numbers of 32 bits, in types that differ between architectures"
            )]
            let file_system = u64::from(file_system as u32);
            if !LOCAL.contains(&file_system) {
                return Err(WatchError::FileSystem(shown(), file_system));
            }
            let by_descriptor = format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd());
            let number =
                inotify::add_watch(kernel, by_descriptor, if wanted.has_entries { ALL } else { NAMES }).map_err(failed)?;
            watched.entry(number).or_default().push(Directory { path, wanted });
        }
        Ok(Self(watched))
    }

    /// Adds the entries that a note is about; false when it tells of something that no entry is.
    pub(super) fn note(
        &self,
        (record, root): (&Encoded, &RootDir),
        (number, what): (i32, ReadFlags),
        name: Option<&CStr>,
        places: &mut HashSet<Place>,
    ) -> bool {
        let Some(directories) = self.0.get(&number) else { return false };
        let name = name.filter(|name| !name.is_empty());
        for Directory { path, wanted } in directories {
            if let Some(name) = name {
                if wanted.crossings.contains(name.to_bytes()) {
                    return false;
                }
                let place = record.find(path, name.to_bytes());
                let is_new = what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && !what.contains(ReadFlags::ISDIR);
                if place.is_none() && is_new && wanted.has_entries && may_be_another_name(root, path, name) {
                    return false;
                }
                places.extend(place);
            }
            let comes_or_goes = ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
            if name.is_none() || what.intersects(comes_or_goes) {
                places.extend(record.find_path(path));
            }
        }
        true
    }
}

/// Whether what has come may be another name of an entry, which could be changed through it. Gone already is a yes.
fn may_be_another_name(root: &RootDir, path: &[u8], name: &CStr) -> bool {
    let stat = root.open_beneath(path).and_then(|directory| stat_of_name(directory, name));
    !matches!(stat, Ok(Some(stat)) if stat.nlink == 1)
}

/// Returns the directories to be watched, with the names in each that lead to others; `None` when there are too many.
fn wanted(record: &Encoded) -> Option<BTreeMap<Vec<u8>, Wanted>> {
    let mut paths: BTreeSet<Vec<u8>> = BTreeSet::new();
    for group in (0..record.group_count()).map_while(|number| record.group(number)) {
        let directory = CStr::from_bytes_with_nul(group.directory).map(CStr::to_bytes).unwrap_or_default();
        paths.insert(directory.to_vec());
        let mut names = group.names;
        for entry in group.entries {
            let Some((name, rest)) = names.split_at_checked(name_length(entry)) else { break };
            names = rest;
            if is_listed_directory(entry) {
                paths.insert(joined(directory, name.strip_suffix(b"\0").unwrap_or(name)));
            }
        }
        if paths.len() > MOST_DIRECTORIES {
            return None;
        }
    }
    let mut wanted: BTreeMap<Vec<u8>, Wanted> = BTreeMap::from([(b".".to_vec(), Wanted::default())]);
    for path in paths {
        if path != b"." {
            let mut above: &[u8] = b".";
            let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at).chain([path.len()]);
            for end in ends {
                let name = if above == b"." { &path[..end] } else { &path[above.len() + 1..end] };
                wanted.entry(above.to_vec()).or_default().crossings.insert(name.into());
                above = &path[..end];
            }
        }
        wanted.entry(path).or_default().has_entries = true;
    }
    (wanted.len() <= MOST_DIRECTORIES).then_some(wanted)
}

/// Returns the path of a name in a directory.
fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match (directory, name) {
        (b".", name) => name.to_vec(),
        (directory, name) => [directory, b"/", name].concat(),
    }
}

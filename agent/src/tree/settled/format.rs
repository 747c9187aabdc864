//! The file of a settled record.
//!
//! All numbers little-endian, times in nanoseconds since 1970 UTC, names and paths ended by a NUL:
//!
//! ```text
//! "DPSETL" 0x00 VERSION | checksum: 32 bytes | binding: 32 bytes | recorded_at due_at: i64 | resources listed stat_proved: u64
//!          | devices groups entries: u32 | catalog: entry | device: u64 ... | group ... | entry ... | names
//! group = its directory, first entry, number of entries, name of the first entry: u32 (offsets into names, or numbers of entries)
//! entry = ino size: u64 | mtime ctime: i64 | mode uid gid: u32 | device: u8 | kind: u8 | length of the name with its NUL: u16
//! ```
//!
//! A group is a directory and up to 512 entries in it; a larger directory has several. The names of a group's entries follow
//! each other. The checksum is BLAKE3 over all after it, keyed by this host's secret: damage, another version and another key
//! all make the file no record. Nothing is parsed up front but the header: groups and entries are read where they lie when
//! they are compared.

use direct_puppet_transport::protocol::TreePath;

use super::super::record::{Nanos, nanos_of};
use super::witness::{Seen, Witnesses};
use crate::fs::{FileKind, Stat};

const MAGIC: [u8; 8] = *b"DPSETL\0\x01";
/// Bytes of a checksum.
pub(super) const CHECKSUM_BYTES: usize = 32;
/// Where that which the checksum covers begins.
const BODY: usize = MAGIC.len() + CHECKSUM_BYTES;
const HEADER_BYTES: usize = BODY + 32 + 2 * 8 + 3 * 8 + 3 * 4 + ENTRY_BYTES;
const GROUP_BYTES: usize = 4 * 4;
/// Bytes of an entry.
pub(super) const ENTRY_BYTES: usize = 4 * 8 + 3 * 4 + 1 + 1 + 2;
/// Entries of one group: enough to make opening the directory cheap, few enough to share out a directory that holds everything.
const GROUP_ENTRIES: usize = 512;

const ABSENT: u8 = 0;
const PRESENT: u8 = 1;
const ATTRIBUTES: u8 = 2;
const UNCHANGED: u8 = 3;

/// What a record says besides what was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Digest of everything else that the outcome of a run depends on.
    pub(super) binding: [u8; 32],
    /// Not later than anything in it was looked at.
    pub(super) recorded_at: Nanos,
    /// When the first file is to be proved by digest again.
    pub(super) due_at: Nanos,
    /// Resources, generated ones included.
    pub(super) resources: u64,
    /// Files that a scan would list.
    pub(super) listed: u64,
    /// Of them, those whose content it would prove by stat.
    pub(super) stat_proved: u64,
}

/// Returns the checksum of a whole file.
pub(super) fn checksum_of(bytes: &[u8]) -> Option<&[u8; CHECKSUM_BYTES]> {
    bytes.get(MAGIC.len()..)?.first_chunk()
}

/// A record as it lies in memory: checked as a whole, read piece by piece.
#[derive(Debug)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    pub(super) header: Header,
    devices: usize,
    groups: usize,
    entries: usize,
}

/// One directory, or a part of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<'a> {
    /// Path below the root, with its NUL; `.` for the root itself.
    pub(super) directory: &'a [u8],
    /// Number of the first entry among all of the record.
    pub(super) first: usize,
    pub(super) entries: &'a [[u8; ENTRY_BYTES]],
    /// Names of the entries, each with its NUL; there may be others behind them.
    pub(super) names: &'a [u8],
}

/// An entry, by the numbers of its group and of itself in that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) group: usize,
    pub(super) entry: usize,
}

/// The files that devices are numbered by; at most 256.
#[derive(Debug, Default)]
struct Devices(Vec<u64>);

impl Devices {
    fn number(&mut self, dev: u64) -> Option<u8> {
        let at = self.0.iter().position(|&known| known == dev).unwrap_or_else(|| {
            self.0.push(dev);
            self.0.len() - 1
        });
        u8::try_from(at).ok()
    }
}

/// Returns the witnesses in the order of the entries.
pub(super) fn in_order(witnesses: &Witnesses) -> Vec<(&TreePath, &Seen)> {
    let mut sorted: Vec<(&TreePath, &Seen)> = witnesses.iter().collect();
    sorted.sort_unstable_by_key(|(path, _)| split(path));
    sorted
}

/// Returns the parts of witnesses in order that make a group each.
fn parts_of<'a, 'w>(sorted: &'a [(&'w TreePath, &'w Seen)]) -> impl Iterator<Item = &'a [(&'w TreePath, &'w Seen)]> {
    let directories = sorted.chunk_by(|one, other| split(one.0).0 == split(other.0).0);
    directories.flat_map(|directory| directory.chunks(GROUP_ENTRIES))
}

/// Returns the directory of each group, `.` for the root, of witnesses that are in order.
pub(super) fn directories<'a>(sorted: &'a [(&'a TreePath, &'a Seen)]) -> impl Iterator<Item = &'a [u8]> {
    parts_of(sorted).map(|part| split(part[0].0).0)
}

/// Encodes witnesses that are in order; `None` when something does not fit.
pub(super) fn encode(header: &Header, catalog: &Stat, sorted: &[(&TreePath, &Seen)], key: &[u8; 32]) -> Option<Vec<u8>> {
    let (mut groups, mut entries, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let mut devices = Devices::default();
    for part in parts_of(sorted) {
        for number in [names.len(), entries.len() / ENTRY_BYTES, part.len()] {
            groups.extend_from_slice(&u32::try_from(number).ok()?.to_le_bytes());
        }
        push_name(&mut names, split(part[0].0).0);
        groups.extend_from_slice(&u32::try_from(names.len()).ok()?.to_le_bytes());
        for (path, seen) in part {
            let (_, name) = split(path);
            push_name(&mut names, name);
            entries.extend_from_slice(&entry(seen, u16::try_from(name.len() + 1).ok()?, &mut devices)?);
        }
    }
    let catalog = entry(&Seen::Unchanged(*catalog), 0, &mut devices)?;
    let mut out = Vec::with_capacity(HEADER_BYTES + devices.0.len() * 8 + groups.len() + entries.len() + names.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; CHECKSUM_BYTES]);
    out.extend_from_slice(&header.binding);
    for time in [header.recorded_at, header.due_at] {
        out.extend_from_slice(&time.to_le_bytes());
    }
    for number in [header.resources, header.listed, header.stat_proved] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [devices.0.len(), groups.len() / GROUP_BYTES, entries.len() / ENTRY_BYTES] {
        out.extend_from_slice(&u32::try_from(number).ok()?.to_le_bytes());
    }
    out.extend_from_slice(&catalog);
    devices.0.iter().for_each(|dev| out.extend_from_slice(&dev.to_le_bytes()));
    out.extend_from_slice(&groups);
    out.extend_from_slice(&entries);
    out.extend_from_slice(&names);
    let checksum = blake3::keyed_hash(key, &out[BODY..]);
    out[MAGIC.len()..BODY].copy_from_slice(checksum.as_bytes());
    Some(out)
}

/// Returns directory and name; the root lies in itself, as `.`.
fn split(path: &TreePath) -> (&[u8], &[u8]) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None if bytes.is_empty() => (b".", b"."),
        None => (b".", bytes),
    }
}

fn push_name(names: &mut Vec<u8>, name: &[u8]) {
    names.extend_from_slice(name);
    names.push(0);
}

fn entry(seen: &Seen, name_length: u16, devices: &mut Devices) -> Option<[u8; ENTRY_BYTES]> {
    let mut numbers = [0_u64; 2];
    let mut times = [0_i64; 2];
    let mut attributes = [0_u32; 3];
    let mut device = 0;
    let kind = match *seen {
        Seen::Absent => ABSENT,
        Seen::Present => PRESENT,
        Seen::Attributes { mode, uid, gid } => {
            attributes = [mode, uid, gid];
            ATTRIBUTES
        }
        Seen::Unchanged(stat) => {
            numbers = [stat.ino, stat.size];
            times = [nanos_of(stat.mtime), nanos_of(stat.ctime)];
            attributes = [stat.mode, stat.uid, stat.gid];
            device = devices.number(stat.dev)?;
            UNCHANGED
        }
    };
    let mut out = [0; ENTRY_BYTES];
    let mut rest = out.as_mut_slice();
    let mut put = |bytes: &[u8]| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        rest = tail;
    };
    numbers.iter().for_each(|number| put(&number.to_le_bytes()));
    times.iter().for_each(|time| put(&time.to_le_bytes()));
    attributes.iter().for_each(|number| put(&number.to_le_bytes()));
    put(&[device, kind]);
    put(&name_length.to_le_bytes());
    Some(out)
}

impl Encoded {
    /// Takes a file's bytes; `None` when anything at all is wrong, or it is bound to something else.
    pub(super) fn new(bytes: Vec<u8>, binding: &[u8; 32], key: &[u8; 32]) -> Option<Self> {
        let mut rest = Reader(bytes.strip_prefix(&MAGIC)?);
        let checksum: [u8; CHECKSUM_BYTES] = rest.take()?;
        let header = Header {
            binding: rest.take()?,
            recorded_at: Nanos::from_le_bytes(rest.take()?),
            due_at: Nanos::from_le_bytes(rest.take()?),
            resources: u64::from_le_bytes(rest.take()?),
            listed: u64::from_le_bytes(rest.take()?),
            stat_proved: u64::from_le_bytes(rest.take()?),
        };
        let mut count = || usize::try_from(u32::from_le_bytes(rest.take()?)).ok();
        let (devices, groups, entries) = (count()?, count()?, count()?);
        if header.binding != *binding || blake3::keyed_hash(key, &bytes[BODY..]) != checksum {
            return None;
        }
        let encoded = Self { bytes, header, devices, groups, entries };
        (encoded.names_at()? <= encoded.bytes.len()).then_some(encoded)
    }

    /// Returns the checksum, which tells this record from others.
    pub(super) fn checksum(&self) -> &[u8] {
        &self.bytes[MAGIC.len()..BODY]
    }

    /// Returns whether `stat` is that of the catalog's file as it was.
    pub(super) fn is_catalog(&self, stat: &Stat) -> bool {
        let entry = self.bytes.get(HEADER_BYTES - ENTRY_BYTES..).and_then(<[u8]>::first_chunk);
        entry.is_some_and(|entry| self.is_as_seen(entry, Some(stat)))
    }

    pub(super) const fn group_count(&self) -> usize {
        self.groups
    }

    pub(super) const fn entry_count(&self) -> usize {
        self.entries
    }

    /// Returns a group; `None` when it does not lie within the record.
    pub(super) fn group(&self, number: usize) -> Option<Group<'_>> {
        let groups = self.bytes.get(self.groups_at()..)?;
        let mut rest = Reader(groups.get(number.checked_mul(GROUP_BYTES)?..)?);
        let mut number = || usize::try_from(u32::from_le_bytes(rest.take()?)).ok();
        let (directory, first, count, name) = (number()?, number()?, number()?, number()?);
        let (entries, names) = (self.bytes.get(self.entries_at()?..self.names_at()?)?, self.bytes.get(self.names_at()?..)?);
        let directory = names.get(directory..)?;
        let end = directory.iter().position(|&byte| byte == 0)?;
        Some(Group {
            directory: &directory[..=end],
            first,
            entries: entries.as_chunks().0.get(first..first.checked_add(count)?)?,
            names: names.get(name..)?,
        })
    }

    /// Returns where the entry of a name in a directory is; `.` is the root.
    pub(super) fn find(&self, directory: &[u8], name: &[u8]) -> Option<Place> {
        // Groups are in the order of their directories and first names: the last one that does not begin after it.
        let (mut low, mut high) = (0, self.groups);
        while low < high {
            let middle = low.midpoint(high);
            let group = self.group(middle)?;
            if (until_nul(group.directory), until_nul(group.names)) <= (directory, name) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let number = low.checked_sub(1)?;
        let group = self.group(number).filter(|group| until_nul(group.directory) == directory)?;
        let mut names = group.names;
        for (entry, bytes) in group.entries.iter().enumerate() {
            let (found, rest) = names.split_at_checked(name_length(bytes))?;
            names = rest;
            if until_nul(found) == name {
                return Some(Place { group: number, entry });
            }
        }
        None
    }

    /// As [`Encoded::find`], by a path below the root; `.` is the root.
    pub(super) fn find_path(&self, path: &[u8]) -> Option<Place> {
        match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => self.find(&path[..slash], &path[slash + 1..]),
            None => self.find(b".", path),
        }
    }

    /// Returns whether what is there now is as the entry says.
    pub(super) fn is_as_seen(&self, entry: &[u8; ENTRY_BYTES], stat: Option<&Stat>) -> bool {
        let Some(entry) = Entry::read(entry) else { return false };
        match (entry.kind, stat) {
            (ABSENT, None) | (PRESENT, Some(_)) => true,
            (ATTRIBUTES, Some(stat)) => entry.attributes == [stat.mode, stat.uid, stat.gid],
            (UNCHANGED, Some(stat)) => {
                entry.numbers == [stat.ino, stat.size]
                    && entry.times == [nanos_of(stat.mtime), nanos_of(stat.ctime)]
                    && entry.attributes == [stat.mode, stat.uid, stat.gid]
                    && self.device(entry.device) == Some(stat.dev)
            }
            _ => false,
        }
    }

    /// Returns what kind, size, owner and mode a regular file has that the entry says is unchanged; nothing else is in it.
    pub(super) fn file(entry: &[u8; ENTRY_BYTES]) -> Option<Stat> {
        let Entry { numbers: [ino, size], attributes: [mode, uid, gid], kind, .. } = Entry::read(entry)?;
        let (mtime, ctime) = Default::default();
        let stat = Stat { dev: 0, ino, size, mtime, ctime, mode, uid, gid, nlink: 1 };
        (kind == UNCHANGED && stat.kind() == FileKind::File).then_some(stat)
    }

    fn device(&self, number: u8) -> Option<u64> {
        let number = usize::from(number);
        let device = self.bytes.get(HEADER_BYTES + number * 8..).filter(|_| number < self.devices)?;
        device.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    const fn groups_at(&self) -> usize {
        HEADER_BYTES + self.devices.saturating_mul(8)
    }

    fn entries_at(&self) -> Option<usize> {
        self.groups_at().checked_add(self.groups.checked_mul(GROUP_BYTES)?)
    }

    fn names_at(&self) -> Option<usize> {
        self.entries_at()?.checked_add(self.entries.checked_mul(ENTRY_BYTES)?)
    }
}

/// An entry in numbers.
struct Entry {
    numbers: [u64; 2],
    times: [Nanos; 2],
    attributes: [u32; 3],
    device: u8,
    kind: u8,
}

impl Entry {
    fn read(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let mut rest = Reader(bytes);
        let mut u64s = || rest.take().map(u64::from_le_bytes);
        let numbers = [u64s()?, u64s()?];
        let mut i64s = || rest.take().map(i64::from_le_bytes);
        let times = [i64s()?, i64s()?];
        let mut u32s = || rest.take().map(u32::from_le_bytes);
        let attributes = [u32s()?, u32s()?, u32s()?];
        let [device, kind] = rest.take()?;
        Some(Self { numbers, times, attributes, device, kind })
    }
}

/// Returns whether the entry is a directory in which nothing may come or go.
pub(super) fn is_listed_directory(entry: &[u8; ENTRY_BYTES]) -> bool {
    Entry::read(entry).is_some_and(|entry| entry.kind == UNCHANGED && is_directory(entry.attributes[0]))
}

/// Returns whether the entry says that this very object was not changed since.
pub(super) fn is_unchanged(entry: &[u8; ENTRY_BYTES]) -> bool {
    Entry::read(entry).is_some_and(|entry| entry.kind == UNCHANGED)
}

/// Returns whether the entry says something of an object that may have other names, through which it can change.
pub(super) fn may_be_linked(entry: &[u8; ENTRY_BYTES]) -> bool {
    Entry::read(entry).is_some_and(|entry| matches!(entry.kind, UNCHANGED | ATTRIBUTES) && !is_directory(entry.attributes[0]))
}

fn is_directory(mode: u32) -> bool {
    rustix::fs::FileType::from_raw_mode(mode).is_dir()
}

/// Returns what is in front of a NUL.
pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Returns how long the entry's name is, with its NUL.
pub(super) fn name_length(entry: &[u8; ENTRY_BYTES]) -> usize {
    entry.last_chunk().map_or(0, |bytes| usize::from(u16::from_le_bytes(*bytes)))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }
}

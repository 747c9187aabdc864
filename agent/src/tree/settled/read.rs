//! Whether everything is still as it was, contents too: each file that the catalog gives a content is read.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;

use super::super::dir::{self, Dir, RootDir};
use super::super::fingerprint::FingerprintKey;
use super::super::hash::SMALL_FILE_BYTES;
use super::super::pool::Pool;
use super::super::read::{Content, Expected, Fingerprint, read, read_open};
use super::super::scan::{Proof, ScanCounters};
use super::contents::{Contents, KnownDirectory};
use super::dir_of_group;
use super::format::{Encoded, Group, Place, is_unchanged, name_length, until_nul};
use crate::fs::{FileKind, Stat};

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Verified {
    pub(super) counters: ScanCounters,
    /// Fingerprints that were not known, by the numbers of entries.
    pub(super) learned: Vec<(usize, u128)>,
    /// Files that needed no look before they were opened, because nothing came or went in their directories.
    pub(super) names_known: u64,
    /// Files too large for the parallel loop.
    large: Vec<Place>,
}

/// What one verification shares.
pub(super) struct Reader<'a> {
    pub(super) record: &'a Encoded,
    pub(super) contents: &'a Contents,
    pub(super) proof: Proof,
    pub(super) key: &'a FingerprintKey,
    pub(super) interrupt: &'a AtomicBool,
}

impl Reader<'_> {
    /// Looks at all entries, and reads and proves all contents; `None` at the first that is not as it was, and on the interrupt. `progress`
    /// counts entries. Answers do not depend on the number of threads. Blocking.
    pub(super) fn all_verify(&self, root: &Path, threads: usize, progress: &AtomicU64) -> Option<Verified> {
        let root = RootDir::open(root).ok()?;
        let small = || {
            let one = |buffer: &mut Vec<u8>, number: usize| {
                let group = self.record.group(number)?;
                let mut verified = Verified::default();
                self.verify_group(&root, (number, &group), buffer, &mut verified)?;
                progress.fetch_add(group.entries.len() as u64, Ordering::Relaxed);
                Some(verified)
            };
            let parts = (0..self.record.group_count()).into_par_iter().map_init(Vec::new, one);
            parts.try_reduce(Verified::default, |one, other| Some(one.and(other)))
        };
        let mut all = Pool::apart(threads, &root, small).ok()??;
        let large = std::mem::take(&mut all.large);
        if !large.is_empty() {
            // Each with all threads, which have what one of them opened: not in the loop, where such a thread would begin with other groups meanwhile.
            let verify = || large.into_iter().try_for_each(|place| self.verify_large(&root, place, &mut all));
            Pool::new(threads).ok()?.install(verify)?;
        }
        Some(all)
    }

    fn verify_group(
        &self,
        root: &RootDir,
        (number, group): (usize, &Group<'_>),
        buffer: &mut Vec<u8>,
        verified: &mut Verified,
    ) -> Option<()> {
        let dir = open(root, group).ok()?;
        // Then its names are those of the objects that they were, and what was a regular file is one.
        let known = self.contents.directory(number);
        let unchanged = dir
            .as_ref()
            .filter(|dir| known.is_some() && dir.own_stat().is_ok_and(|stat| known == Some(KnownDirectory::new(&stat))));
        let mut names = group.names;
        for (at, entry) in group.entries.iter().enumerate() {
            let (name, rest) = names.split_at_checked(name_length(entry)).filter(|_| !self.interrupt.load(Ordering::Relaxed))?;
            names = rest;
            let name = until_nul(name);
            if let Some(dir) = unchanged
                && let Some(before) = Encoded::file(entry).filter(|file| file.size <= SMALL_FILE_BYTES)
                && self.contents.get(group.first + at).is_some()
                // What is mounted over it, and where the call is not known: as below.
                && let Ok(file) = dir.open_own_file(name)
            {
                let place = (dir, group.first + at);
                let read = |expected: &Expected, buffer: &mut Vec<u8>| {
                    let is_it = |after: &Stat| self.record.is_as_seen(entry, Some(after));
                    read_open(&file, is_it, expected, self.key, buffer, self.interrupt)
                };
                self.verify(place, &before, read, buffer, verified)?;
                verified.names_known += 1;
                continue;
            }
            let stat = dir.as_ref().map_or(Ok(None), |dir| dir.stat(name)).ok()?;
            if !self.record.is_as_seen(entry, stat.as_ref()) {
                return None;
            }
            if self.contents.get(group.first + at).is_none() {
                continue;
            }
            // That it has this content was seen of this very file.
            let (dir, stat) = dir.as_ref().zip(stat).filter(|(_, stat)| is_unchanged(entry) && stat.kind() == FileKind::File)?;
            if stat.size > SMALL_FILE_BYTES {
                verified.large.push(Place { group: number, entry: at });
            } else {
                let read = |expected: &Expected, buffer: &mut Vec<u8>| {
                    read(dir, name, &stat, expected, self.key, buffer, self.interrupt)
                };
                self.verify((dir, group.first + at), &stat, read, buffer, verified)?;
            }
        }
        Some(())
    }

    fn verify_large(&self, root: &RootDir, place: Place, verified: &mut Verified) -> Option<()> {
        let group = self.record.group(place.group)?;
        let entry = group.entries.get(place.entry)?;
        let before: usize = group.entries[..place.entry].iter().map(name_length).sum();
        let name = until_nul(group.names.get(before..)?);
        let dir = open(root, &group).ok()??;
        let stat = dir.stat(name).ok()?.filter(|stat| self.record.is_as_seen(entry, Some(stat)))?;
        let read =
            |expected: &Expected, buffer: &mut Vec<u8>| read(&dir, name, &stat, expected, self.key, buffer, self.interrupt);
        self.verify((&dir, group.first + place.entry), &stat, read, &mut Vec::new(), verified)
    }

    /// Has a file read, and proves what it has.
    fn verify(
        &self,
        (dir, entry): (&Dir<'_>, usize),
        stat: &Stat,
        read: impl FnOnce(&Expected, &mut Vec<u8>) -> Content,
        buffer: &mut Vec<u8>,
        verified: &mut Verified,
    ) -> Option<()> {
        let content = self.contents.get(entry)?;
        let is_enough = self.proof == Proof::Fingerprint && dir::is_private(stat) && dir.is_private();
        let fingerprint = match content.fingerprint {
            Some(fingerprint) if is_enough => Fingerprint::IsProof(fingerprint),
            Some(_) => Fingerprint::Unneeded,
            None => Fingerprint::Wanted,
        };
        let expected = Expected { digest: content.digest, size: stat.size, fingerprint };
        let Content::Read(found) = read(&expected, buffer) else { return None };
        match found.digest {
            Some(digest) if digest != content.digest => return None,
            Some(_) => {}
            None => verified.counters.fingerprint_proved += 1,
        }
        verified.counters.opened += 1;
        verified.counters.bytes_hashed += stat.size;
        verified.learned.extend(found.fingerprint.filter(|_| content.fingerprint.is_none()).map(|found| (entry, found)));
        Some(())
    }
}

impl Verified {
    fn and(mut self, mut other: Self) -> Self {
        self.counters.add(&other.counters);
        self.learned.append(&mut other.learned);
        self.names_known += other.names_known;
        self.large.append(&mut other.large);
        self
    }
}

/// Opens the directory of a group; `None` when it is not there.
fn open<'a>(root: &'a RootDir, group: &Group<'_>) -> Result<Option<Dir<'a>>, rustix::io::Errno> {
    dir_of_group(root, until_nul(group.directory))
}

//! The log of the index: its head, its frames, and what they add up to.

use std::collections::{BTreeMap, btree_map};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take, Write};
use std::iter::Peekable;
use std::vec;

use direct_puppet_agent::fs::Stat;
use direct_puppet_transport::protocol::{Digest, TreePath};

use super::notes::{self, Note};

const MAGIC: [u8; 8] = *b"DPSTAGE\x04";
/// Bytes of a checksum.
const SUM_BYTES: usize = 16;
const HEAD_BYTES: usize = MAGIC.len() + 16 + SUM_BYTES;

/// Notes of one frame.
const NOTES_PER_FRAME: usize = 512;
/// Longest body, in bytes: so many notes of the longest paths.
const MAX_BODY_BYTES: u32 = 8 << 20;

/// A log, read as far as its head and what was added to its base.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// What it says.
    pub(super) entries: Entries,
    /// How long it is as far as it is whole, in bytes; `None` when there is none.
    pub(super) bytes: Option<u64>,
    /// Notes of its base.
    pub(super) base: u64,
    /// Notes that were added.
    pub(super) added: u64,
}

impl Log {
    /// Reads a log; what is none, or has a damaged head, says nothing.
    pub(super) fn read(file: File) -> io::Result<Self> {
        let mut reader = BufReader::new(file.try_clone()?);
        let mut head = [0; HEAD_BYTES];
        if !is_filled(&mut reader, &mut head)? {
            return Ok(Self::default());
        }
        let Some((base_bytes, base)) = read_head(&head) else { return Ok(Self::default()) };
        let mut end = HEAD_BYTES as u64 + base_bytes;
        reader.seek(SeekFrom::Start(end))?;
        let (mut late, mut body, mut added) = (BTreeMap::new(), Vec::new(), 0);
        while let Some(length) = next_frame(&mut reader, &mut body)? {
            let Some(notes) = notes::decode(&body) else { break };
            added += notes.len() as u64;
            end += length;
            late.extend(notes.into_iter().map(|note| (note.path, note.found)));
        }
        // Both readers move one position, and from here on this one has it alone.
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(HEAD_BYTES as u64))?;
        let frames = Frames { log: reader.take(base_bytes), body, notes: Vec::new().into_iter(), last: None, left: base };
        let entries = Entries { base: Some(frames), late: late.into_iter(), ..Entries::default() };
        Ok(Self { entries, bytes: Some(end), base, added })
    }

    /// Whether all of the base was read and is whole: known when the entries are at their end.
    pub(super) fn is_whole(&self) -> bool {
        self.entries.base.as_ref().is_some_and(|base| base.left == 0)
    }
}

/// What is recorded on one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) path: TreePath,
    pub(super) stat: Stat,
    pub(super) digest: Digest,
}

/// Writes a log that has only a base.
pub(super) fn write_base<W: Write + Seek>(mut all: Merged, file: &mut W) -> io::Result<()> {
    file.write_all(&[0; HEAD_BYTES])?;
    let count = write_frames(&mut all, file)?;
    if let Some(error) = all.failed {
        return Err(error);
    }
    let bytes = file.stream_position()? - HEAD_BYTES as u64;
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.extend(MAGIC);
    head.extend(bytes.to_le_bytes());
    head.extend(count.to_le_bytes());
    let sum = blake3::hash(&head);
    head.extend(&sum.as_bytes()[..SUM_BYTES]);
    file.rewind()?;
    file.write_all(&head)?;
    file.seek(SeekFrom::End(0)).map(drop)
}

/// Returns how many bytes and notes the base has.
fn read_head(head: &[u8; HEAD_BYTES]) -> Option<(u64, u64)> {
    let (said, sum) = head.split_at(HEAD_BYTES - SUM_BYTES);
    let (bytes, notes) = said.strip_prefix(&MAGIC)?.split_first_chunk()?;
    let is_whole = blake3::hash(said).as_bytes()[..SUM_BYTES] == *sum;
    is_whole.then_some((u64::from_le_bytes(*bytes), u64::from_le_bytes(notes.try_into().ok()?)))
}

/// Writes notes, frame by frame, and returns how many there were.
pub(super) fn write_frames(mut notes: impl Iterator<Item = Note>, out: &mut impl Write) -> io::Result<u64> {
    let (mut count, mut body) = (0, Vec::new());
    loop {
        let frame: Vec<Note> = notes.by_ref().take(NOTES_PER_FRAME).collect();
        if frame.is_empty() {
            return Ok(count);
        }
        count += frame.len() as u64;
        body.clear();
        notes::encode(&frame, &mut body);
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&blake3::hash(&body).as_bytes()[..SUM_BYTES])?;
        out.write_all(&body)?;
    }
}

/// Reads the next frame's body; `None` at the end, or where a frame is not whole. Returns how long the frame is, in bytes.
fn next_frame(log: &mut impl Read, body: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let (mut length, mut sum) = ([0; 4], [0; SUM_BYTES]);
    if !is_filled(log, &mut length)? || !is_filled(log, &mut sum)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length);
    body.clear();
    if length > MAX_BODY_BYTES || log.take(length.into()).read_to_end(body)? as u64 != u64::from(length) {
        return Ok(None);
    }
    let is_whole = blake3::hash(body).as_bytes()[..SUM_BYTES] == sum;
    Ok(is_whole.then_some(4 + SUM_BYTES as u64 + u64::from(length)))
}

fn is_filled(log: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| true),
    }
}

/// Reads the notes of the base.
#[derive(Debug)]
struct Frames {
    log: Take<BufReader<File>>,
    body: Vec<u8>,
    notes: vec::IntoIter<Note>,
    /// The path of the last note of `notes`, as they were read.
    last: Option<TreePath>,
    /// Notes that were not read yet, or cannot be.
    left: u64,
}

impl Frames {
    /// Returns the next entry; `None` at the end, or where the base is not whole.
    fn next(&mut self) -> io::Result<Option<IndexEntry>> {
        if self.notes.as_slice().is_empty() {
            if next_frame(&mut self.log, &mut self.body)?.is_none() {
                return Ok(None);
            }
            let Some(notes) = notes::decode(&self.body) else { return Ok(None) };
            let is_in_order = self.last.iter().chain(notes.iter().map(|note| &note.path)).is_sorted_by(|a, b| a < b);
            if !is_in_order {
                return Ok(None);
            }
            self.last = notes.last().map(|note| note.path.clone());
            self.notes = notes.into_iter();
        }
        let Some(Note { path, found: Some((stat, digest)) }) = self.notes.next() else { return Ok(None) };
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        Ok(Some(IndexEntry { path, stat, digest }))
    }
}

/// What is recorded, in path order: the base with what was added put into it.
#[derive(Debug, Default)]
pub(super) struct Entries {
    base: Option<Frames>,
    base_ahead: Option<IndexEntry>,
    is_base_over: bool,
    late: btree_map::IntoIter<TreePath, Option<(Stat, Digest)>>,
    late_ahead: Option<Note>,
    ahead: Option<IndexEntry>,
}

impl Entries {
    /// Returns the next entry if its path is wanted.
    pub(super) fn next_if(&mut self, is_wanted: impl FnOnce(&TreePath) -> bool) -> io::Result<Option<IndexEntry>> {
        if self.ahead.is_none() {
            self.ahead = self.next()?;
        }
        Ok(self.ahead.take_if(|entry| is_wanted(&entry.path)))
    }

    fn next(&mut self) -> io::Result<Option<IndexEntry>> {
        loop {
            if let (None, false, Some(base)) = (&self.base_ahead, self.is_base_over, &mut self.base) {
                self.base_ahead = base.next()?;
                self.is_base_over = self.base_ahead.is_none();
            }
            if self.late_ahead.is_none() {
                self.late_ahead = self.late.next().map(|(path, found)| Note { path, found });
            }
            let Some(note) = &self.late_ahead else { return Ok(self.base_ahead.take()) };
            if let Some(entry) = self.base_ahead.take_if(|entry| entry.path <= note.path) {
                if entry.path < note.path {
                    return Ok(Some(entry));
                }
                continue;
            }
            if let Some(Note { path, found: Some((stat, digest)) }) = self.late_ahead.take() {
                return Ok(Some(IndexEntry { path, stat, digest }));
            }
        }
    }
}

/// Entries with notes put into them, both in path order, as the notes that say all of it.
pub(super) struct Merged {
    entries: Entries,
    notes: Peekable<vec::IntoIter<Note>>,
    /// Why it ended early.
    failed: Option<io::Error>,
}

impl Merged {
    /// Puts notes in path order into entries.
    pub(super) fn new(entries: Entries, notes: Vec<Note>) -> Self {
        Self { entries, notes: notes.into_iter().peekable(), failed: None }
    }

    fn try_next(&mut self) -> io::Result<Option<Note>> {
        let entry = |entry: IndexEntry| Note { path: entry.path, found: Some((entry.stat, entry.digest)) };
        loop {
            let Some(note) = self.notes.peek() else { return Ok(self.entries.next_if(|_| true)?.map(entry)) };
            if let Some(before) = self.entries.next_if(|path| *path < note.path)? {
                return Ok(Some(entry(before)));
            }
            self.entries.next_if(|path| *path == note.path)?;
            if let Some(note) = self.notes.next().filter(|note| note.found.is_some()) {
                return Ok(Some(note));
            }
        }
    }
}

impl Iterator for Merged {
    type Item = Note;

    fn next(&mut self) -> Option<Note> {
        self.try_next().unwrap_or_else(|error| {
            self.failed = Some(error);
            None
        })
    }
}

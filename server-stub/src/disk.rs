//! Reading and writing the server's own small files.

use std::borrow::Cow;
use std::fs::{DirEntry, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use direct_puppet_agent::fs::{FsError, FsErrorKind, write_cache, write_state};
use direct_puppet_transport::protocol::Digest;
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::ServerError;

/// The right to use a data directory; given back when dropped.
#[derive(Debug)]
pub(crate) struct DataLock(File);

impl Drop for DataLock {
    fn drop(&mut self) {
        // Not only by closing: a child that another thread is just starting has the descriptor too, until it runs its program.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::debug!(%error, "the lock of the data directory goes with its descriptor");
        }
    }
}

/// Takes the lock of a data directory.
pub(crate) fn lock(data: &Path) -> Result<DataLock, ServerError> {
    let path = data.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| FsError::new(&path, "open the lock", error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DataLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServerError::Busy { path }),
        Err(error) => Err(FsError::new(&path, "lock", error.into()).into()),
    }
}

/// What the smallest content takes on a disk, in bytes.
const BLOCK_BYTES: u64 = 4096;

/// Returns what a file of so many bytes takes on a disk, as near as needs be.
pub(crate) const fn on_disk(bytes: u64) -> u64 {
    match bytes.checked_next_multiple_of(BLOCK_BYTES) {
        Some(bytes) => bytes,
        None => u64::MAX,
    }
}

/// What a file system has room for, as statvfs(3) tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Space {
    /// Bytes in all.
    pub(crate) size: u64,
    /// Bytes that it still takes from this process.
    pub(crate) free: u64,
    /// Files; nothing where they have no limit.
    pub(crate) files: Option<Files>,
}

/// Files that a file system can have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Files {
    /// In all.
    pub(crate) all: u64,
    /// That it still takes from this process.
    pub(crate) free: u64,
}

impl Space {
    /// Looks at the file system of a path.
    pub(crate) fn of(path: &Path) -> Result<Self, ServerError> {
        let found = rustix::fs::statvfs(path).map_err(|error| FsError::new(path, "look for free space in", error.into()))?;
        let files = (found.f_files > 0).then_some(Files { all: found.f_files, free: found.f_favail });
        // Some have no size.
        let bytes = |blocks: u64| if found.f_blocks > 0 { blocks.saturating_mul(found.f_frsize) } else { u64::MAX };
        Ok(Self { size: bytes(found.f_blocks), free: bytes(found.f_bavail), files })
    }
}

/// Whether there was no space for something.
pub(crate) fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let is_it = |error: &(dyn std::error::Error + 'static)| {
        let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
        error.downcast_ref::<FsError>().is_some_and(|error| error.kind == FsErrorKind::Full)
            || matches!(error.downcast_ref(), Some(ServerError::NoSpace { .. } | ServerError::NoFiles { .. }))
            || matches!(io, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    };
    std::iter::successors(Some(error), |error| error.source()).any(is_it)
}

/// Reads a file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, ServerError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FsError::new(path, "read", error).into()),
    }
}

/// Reads a JSON file that [`write_json`] wrote, and checks its checksum; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ServerError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let damaged = |reason: String| ServerError::Damaged { path: path.to_owned(), reason };
    let text = unchecked(&text).ok_or_else(|| damaged("it is not what was written: its checksum differs".to_owned()))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| damaged(error.to_string()))
}

/// Begins the last member of a checked object; the value is [`CHECK_DIGITS`] digits, and nothing but spaces, a quote and braces follows.
const CHECK: &str = "\"check\":\"";
const CHECK_DIGITS: usize = 16;

/// Returns how the checksum of a text is written: the first digits of its BLAKE3.
fn check_of(text: &[u8]) -> String {
    Digest::of(text).to_hex()[..CHECK_DIGITS].to_owned()
}

/// Adds a last member to a JSON object that proves the others: `,"check":"..."`. What is no object, or has no members, stays as it is.
pub(crate) fn checked(mut text: Vec<u8>) -> Vec<u8> {
    let inner = text.strip_suffix(b"}").filter(|inner| inner.starts_with(b"{") && inner.len() > 1);
    if let Some(kept) = inner.map(<[u8]>::len) {
        let check = check_of(&text);
        text.truncate(kept);
        text.extend_from_slice(format!(",{CHECK}{check}\"}}").as_bytes());
    }
    text
}

/// Takes the proof away; `None` when it does not fit. A text without one, as earlier programs wrote it, is returned as it is.
pub(crate) fn unchecked(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    let of_check = 1 + CHECK.len() + CHECK_DIGITS + 2;
    let Some((kept, check)) = text.split_at_checked(text.len().wrapping_sub(of_check)) else { return Some(Cow::Borrowed(text)) };
    let digits = check.strip_prefix(b",").and_then(|rest| rest.strip_prefix(CHECK.as_bytes())?.strip_suffix(b"\"}"));
    let Some(digits) = digits else { return Some(Cow::Borrowed(text)) };
    let text = [kept, b"}"].concat();
    (check_of(&text).as_bytes() == digits).then_some(Cow::Owned(text))
}

/// Decodes a line; `None` when it is damaged.
fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    unchecked(line).and_then(|line| serde_json::from_slice(&line).ok())
}

/// Returns what [`write_json`] writes to `path`.
pub(crate) fn json_of(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, ServerError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| FsError::new(path, "encode", error.into()))?;
    Ok(checked(text))
}

/// Replaces a JSON file, atomically and durably.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
    Ok(write_state(path, &json_of(path, value)?, 0o600)?)
}

/// As [`write_json`], but not durable: after a power cut the file may be damaged, which reading finds.
pub(crate) fn write_json_cache(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
    Ok(write_cache(path, &json_of(path, value)?, 0o600)?)
}

/// Held while a line is appended: half a line of another thread looks like one that a crash cut off.
static APPENDING: Mutex<()> = Mutex::new(());

/// Appends a line to a JSON-lines file, durably; half a line that a crash left there is cut off first.
pub(crate) fn append_json(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
    let _turn = APPENDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !ends_with_line(path).map_err(|error| FsError::new(path, "append to", error))? {
        cut_torn_line(path)?;
    }
    append_line(path, value)
}

/// As [`append_json`], for a log: the value, an object, gets a member `before`, the checksum of the line before, so that none can be edited
/// or taken out from between others without a trace.
pub(crate) fn append_chained(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
    let _turn = APPENDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !ends_with_line(path).map_err(|error| FsError::new(path, "append to", error))? {
        cut_torn_line(path)?;
    }
    let before = last_line(path).map_err(|error| FsError::new(path, "read the end of", error))?;
    let before = before.as_deref().and_then(check_in).unwrap_or_default();
    let mut value = serde_json::to_value(value).map_err(|error| FsError::new(path, "encode", error.into()))?;
    if let Some(members) = value.as_object_mut() {
        members.insert("before".to_owned(), before.into());
    }
    append_line(path, &value)
}

/// Returns the checksum of a line, if it has one and that fits.
fn check_in(line: &[u8]) -> Option<String> {
    unchecked(line).filter(|plain| plain.len() < line.len())?;
    let (_, check) = line.split_at_checked(line.len().checked_sub(CHECK_DIGITS + 2)?)?;
    check.strip_suffix(b"\"}").map(|digits| String::from_utf8_lossy(digits).into_owned())
}

/// Returns the last line of a file that ends with one, without its end.
fn last_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    let (mut end, mut line) = (length.saturating_sub(1), Vec::new());
    while end > 0 {
        let mut piece = vec![0; usize::try_from(end.min(4096)).unwrap_or(4096)];
        let start = end - piece.len() as u64;
        file.read_exact_at(&mut piece, start)?;
        let cut = piece.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        line.splice(..0, piece.drain(cut..));
        if cut > 0 {
            break;
        }
        end = start;
    }
    Ok((length > 0).then_some(line))
}

/// Returns the numbers, from 1 on, of the lines of a log that are not as they were written, or whose line before is not the one that was
/// there then. Lines of earlier programs have no checksum and name none: they may stand anywhere, for such a program may have been gone back to.
/// The line after one of them names none either, so that a line which another one names can neither be made one of theirs nor follow one.
pub(crate) fn broken_links(path: &Path) -> Result<Vec<usize>, ServerError> {
    #[derive(serde::Deserialize)]
    struct Link {
        before: Option<String>,
    }
    let text = read(path)?.unwrap_or_default();
    let Some(whole) = text.iter().rposition(|&byte| byte == b'\n') else { return Ok(Vec::new()) };
    let (mut broken, mut last) = (Vec::new(), None);
    for (at, line) in text[..whole].split(|&byte| byte == b'\n').enumerate() {
        let is_good = decode_line::<Link>(line).is_some_and(|link| match link.before {
            Some(before) => before == last.clone().unwrap_or_default(),
            None => check_in(line).is_none(),
        });
        if !is_good {
            broken.push(at + 1);
        }
        last = check_in(line);
    }
    Ok(broken)
}

fn append_line(path: &Path, value: &impl Serialize) -> Result<(), ServerError> {
    let append = || -> io::Result<()> {
        let mut line = checked(serde_json::to_vec(value)?);
        line.push(b'\n');
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        file.write_all(&line)?;
        file.sync_all()?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    append().map_err(|error| FsError::new(path, "append to", error).into())
}

/// Whether a file is empty, not there, or ends with the end of a line.
fn ends_with_line(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

/// Reads a JSON-lines file; a last line that a crash cut off is passed over.
pub(crate) fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, ServerError> {
    let text = read(path)?.unwrap_or_default();
    Ok(text.split(|&byte| byte == b'\n').filter_map(decode_line).collect())
}

/// Returns the numbers, from 1 on, of the lines of a JSON-lines file that are whole and cannot be read.
pub(crate) fn damaged_json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<usize>, ServerError> {
    let text = read(path)?.unwrap_or_default();
    let whole = text.iter().rposition(|&byte| byte == b'\n').unwrap_or(0);
    let is_damaged = |line: &[u8]| decode_line::<T>(line).is_none();
    let lines = text[..whole].split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty() && is_damaged(line));
    Ok(lines.map(|(at, _)| at + 1).collect())
}

/// Removes what follows the last whole line of a JSON-lines file, so that the next line does not run into it.
pub(crate) fn cut_torn_line(path: &Path) -> Result<(), ServerError> {
    let Some(text) = read(path)? else { return Ok(()) };
    let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole == text.len() {
        return Ok(());
    }
    let cut = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(whole as u64)?;
        file.sync_all()
    };
    cut().map_err(|error| FsError::new(path, "cut a torn line off", error).into())
}

/// Lists a directory.
pub(crate) fn entries(path: &Path) -> Result<Vec<DirEntry>, ServerError> {
    let list = || std::fs::read_dir(path)?.collect::<io::Result<Vec<DirEntry>>>();
    list().map_err(|error| FsError::new(path, "list", error).into())
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), ServerError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| FsError::new(path, "make durable the directory", error).into())
}

/// Returns the device and the inode of what a path leads to.
pub(crate) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Whether something could not be read for what this process may have no more of, and not for what it is.
pub(crate) fn is_of_this_process(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Whether a file has this content.
pub(crate) fn is_content(mut file: File, digest: &Digest) -> io::Result<bool> {
    let (mut verifier, mut buffer) = (digest.verifier(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(verifier.finish() == *digest),
            Ok(count) => verifier.update(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_given_back_though_a_child_that_is_being_started_has_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(ServerError::Busy { .. })));
        let inherited = held.0.try_clone().unwrap();
        drop(held);
        drop(lock(dir.path()).unwrap());
        drop(inherited);
    }

    #[test]
    fn what_is_not_as_it_was_written_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (path, lines) = (dir.path().join("one.json"), dir.path().join("lines.jsonl"));
        #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
        struct Told {
            message: String,
            sequence: u64,
        }
        let told = |message: &str| Told { message: message.to_owned(), sequence: 3 };
        let value = told("why");
        write_json(&path, &value).unwrap();
        append_json(&lines, &value).unwrap();
        assert_eq!(read_json::<Told>(&path).unwrap().as_ref(), Some(&value));
        assert_eq!(read_json_lines::<Told>(&lines).unwrap(), [told("why")]);
        let (written, line) = (std::fs::read(&path).unwrap(), std::fs::read(&lines).unwrap());
        for (at, bit) in (0..written.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = written.clone();
            flipped[at] ^= 1 << bit;
            std::fs::write(&path, flipped).unwrap();
            match read_json::<Told>(&path) {
                Err(ServerError::Damaged { .. }) => {}
                // In the name of the checksum: what it proved is as it was.
                read => assert_eq!(read.unwrap().as_ref(), Some(&value), "bit {bit} of byte {at}"),
            }
        }
        let other = String::from_utf8(line).unwrap().replace("why", "whY");
        std::fs::write(&lines, other + "{\"message\":\"of an earlier program\",\"sequence\":3}\n").unwrap();
        assert_eq!(damaged_json_lines::<Told>(&lines).unwrap(), [1]);
        assert_eq!(read_json_lines::<Told>(&lines).unwrap(), [told("of an earlier program")]);
        for plain in ["{}", "[1]", "\"text\"", "7", ""] {
            assert_eq!(checked(plain.into()), plain.as_bytes());
            assert_eq!(unchecked(plain.as_bytes()).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn a_log_shows_what_was_edited_or_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, "{\"act\":\"of an earlier program\"}\n").unwrap();
        for number in 0..4 {
            append_chained(&path, &serde_json::json!({ "act": format!("{number}").repeat(3000) })).unwrap();
        }
        assert_eq!(broken_links(&path).unwrap(), [0; 0]);
        assert_eq!(broken_links(&dir.path().join("none")).unwrap(), [0; 0]);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let broken = |lines: &[&str]| {
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
            broken_links(&path).unwrap()
        };
        let edited = lines[2].replacen("111", "112", 1);
        assert_eq!(broken(&[lines[0], lines[1], &edited, lines[3], lines[4]]), [3, 4]);
        assert_eq!(broken(&[lines[0], lines[1], lines[3], lines[4]]), [3]);
        assert_eq!(broken(&[lines[0], lines[1], lines[3], lines[2], lines[4]]), [3, 4, 5]);
        // One that was made anew with its checksum does not fit the next.
        let made = String::from_utf8(checked(format!("{}}}", edited.rsplit_once(",\"check\"").unwrap().0).into_bytes())).unwrap();
        assert_eq!(broken(&[lines[0], lines[1], &made, lines[3], lines[4]]), [4]);
        assert_eq!(broken(&lines), [0; 0]);
        // An earlier program was gone back to for a while, and is in use again.
        std::fs::write(&path, text.clone() + "{\"act\":\"of an earlier program\"}\n").unwrap();
        assert_eq!(broken_links(&path).unwrap(), [0; 0]);
        append_chained(&path, &serde_json::json!({ "act": "and back" })).unwrap();
        assert_eq!(broken_links(&path).unwrap(), [0; 0]);
        let longer = std::fs::read_to_string(&path).unwrap();
        let longer: Vec<&str> = longer.lines().collect();
        assert_eq!(broken(&[&longer[..5], &longer[6..]].concat()), [6], "theirs was taken out");
        assert_eq!(broken(&[lines[0], lines[1], "{\"act\":\"2\"}", lines[3]]), [4], "one was made theirs");
        assert_eq!(broken(&[lines[0], lines[1], "{\"act\":\"more\"}", lines[2]]), [4], "theirs was put in between");
        std::fs::write(&path, text.clone() + "{\"torn").unwrap();
        assert_eq!(broken_links(&path).unwrap(), [0; 0]);
        append_chained(&path, &serde_json::json!({ "act": "next" })).unwrap();
        assert_eq!((broken_links(&path).unwrap(), std::fs::read_to_string(&path).unwrap().lines().count()), (vec![], 6));
    }

    #[test]
    fn a_torn_line_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        append_json(&path, &"one").unwrap();
        for torn in ["\"tw", "x", "{\"a\":"] {
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, [&whole, torn.as_bytes()].concat()).unwrap();
            append_json(&path, &"next").unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), [&whole[..], b"\"next\"\n"].concat(), "{torn}");
        }
        assert_eq!(read_json_lines::<String>(&path).unwrap(), ["one", "next", "next", "next"]);
        assert!(damaged_json_lines::<String>(&path).unwrap().is_empty());
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, whole.replacen("next", "ne\"xt", 1) + "\"to").unwrap();
        assert_eq!(damaged_json_lines::<String>(&path).unwrap(), [2]);
        std::fs::write(&path, "torn from the first byte on").unwrap();
        append_json(&path, &"one").unwrap();
        assert_eq!(read_json_lines::<String>(&path).unwrap(), ["one"]);
    }

    #[test]
    fn lines_of_many_threads_are_all_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines.jsonl");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let path = &path;
                scope.spawn(move || (0..10).for_each(|_| append_json(path, &format!("{thread}").repeat(20_000)).unwrap()));
            }
        });
        assert_eq!(read_json_lines::<String>(&path).unwrap().len(), 40);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 40);
    }
}

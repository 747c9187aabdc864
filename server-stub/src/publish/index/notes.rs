//! How notes are written: numbers of fixed length, since each publish reads one for each file.

use direct_puppet_agent::fs::{Stat, Time};
use direct_puppet_transport::protocol::digest::DIGEST_BYTES;
use direct_puppet_transport::protocol::{Algorithm, Digest, TreePath};

/// What became of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) path: TreePath,
    /// Its metadata and the content that they prove; `None` when nothing is proved any more.
    pub(super) found: Option<(Stat, Digest)>,
}

const NOTHING: u8 = 0;
const BLAKE3: u8 = 1;
const SHA256: u8 = 2;

/// Adds notes to a body.
pub(super) fn encode(notes: &[Note], body: &mut Vec<u8>) {
    for Note { path, found } in notes {
        // MAX_PATH_BYTES fits two bytes.
        let path = path.as_bytes();
        body.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
        body.extend(path);
        let Some((stat, digest)) = found else {
            body.push(NOTHING);
            continue;
        };
        body.push(if digest.algorithm() == Algorithm::Sha256 { SHA256 } else { BLAKE3 });
        let Stat { dev, ino, size, mtime, ctime, mode, uid, gid, nlink } = *stat;
        for number in [dev, ino, size, nlink] {
            body.extend(number.to_le_bytes());
        }
        for time in [mtime, ctime] {
            body.extend(time.seconds.to_le_bytes());
            body.extend(time.nanos.to_le_bytes());
        }
        for number in [mode, uid, gid] {
            body.extend(number.to_le_bytes());
        }
        body.extend(digest.bytes());
    }
}

/// Returns the notes of a body; `None` when it is none.
pub(super) fn decode(body: &[u8]) -> Option<Vec<Note>> {
    let (mut rest, mut notes) = (body, Vec::new());
    while !rest.is_empty() {
        let length = u16::from_le_bytes(take(&mut rest)?);
        let path = rest.split_off(..length.into())?;
        let path = TreePath::from_bytes(path).ok()?;
        let [kind] = take(&mut rest)?;
        let algorithm = match kind {
            NOTHING => {
                notes.push(Note { path, found: None });
                continue;
            }
            BLAKE3 => Algorithm::Blake3,
            SHA256 => Algorithm::Sha256,
            _ => return None,
        };
        let [dev, ino, size, nlink] = numbers(&mut rest, u64::from_le_bytes)?;
        let mut time =
            || Some(Time { seconds: i64::from_le_bytes(take(&mut rest)?), nanos: u32::from_le_bytes(take(&mut rest)?) });
        let (mtime, ctime) = (time()?, time()?);
        let [mode, uid, gid] = numbers(&mut rest, u32::from_le_bytes)?;
        let digest = Digest::new(algorithm, take::<DIGEST_BYTES>(&mut rest)?);
        notes.push(Note { path, found: Some((Stat { dev, ino, size, mtime, ctime, mode, uid, gid, nlink }, digest)) });
    }
    Some(notes)
}

fn take<const COUNT: usize>(rest: &mut &[u8]) -> Option<[u8; COUNT]> {
    let (bytes, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*bytes)
}

fn numbers<T: Copy + Default, const BYTES: usize, const COUNT: usize>(
    rest: &mut &[u8],
    number: impl Fn([u8; BYTES]) -> T,
) -> Option<[T; COUNT]> {
    let mut all = [T::default(); COUNT];
    for one in &mut all {
        *one = number(take(rest)?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notes() -> impl Strategy<Value = Vec<Note>> {
        let time = || (any::<i64>(), any::<u32>()).prop_map(|(seconds, nanos)| Time { seconds, nanos });
        let stat = (any::<[u64; 4]>(), time(), time(), any::<[u32; 3]>()).prop_map(
            |([dev, ino, size, nlink], mtime, ctime, [mode, uid, gid])| Stat {
                dev,
                ino,
                size,
                mtime,
                ctime,
                mode,
                uid,
                gid,
                nlink,
            },
        );
        let algorithm = prop_oneof![Just(Algorithm::Blake3), Just(Algorithm::Sha256)];
        let digest = (algorithm, any::<[u8; DIGEST_BYTES]>()).prop_map(|(algorithm, bytes)| Digest::new(algorithm, bytes));
        let path = "[a-z]{1,9}(/[a-z]{1,9}){0,3}".prop_map(|path| path.parse().unwrap());
        let note = (path, prop::option::of((stat, digest))).prop_map(|(path, found)| Note { path, found });
        prop::collection::vec(note, 0..20)
    }

    proptest! {
        #[test]
        fn they_are_read_as_they_were_written(notes in notes(), cut in any::<prop::sample::Index>()) {
            let mut body = Vec::new();
            encode(&notes, &mut body);
            prop_assert_eq!(decode(&body), Some(notes.clone()));
            let read = decode(&body[..cut.index(body.len() + 1)]);
            prop_assert!(read.is_none_or(|read| notes.starts_with(&read)));
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&bytes));
        }
    }
}

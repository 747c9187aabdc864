//! The cache file.
//!
//! All numbers little-endian, times in nanoseconds since 1970 UTC:
//!
//! ```text
//! "DPSCAN" 0x00 VERSION | count: u64 | record ... | checksum: 32 bytes
//! record = path length: u16 | dev ino size: u64 | mtime ctime recorded_at proved_at: i64 | mode uid gid: u32
//!          | algorithm: u8 (multihash code) | digest: 32 bytes | has fingerprint: u8 | fingerprint: u128 | path bytes
//! ```
//!
//! Records are sorted by path bytes. The checksum is BLAKE3 over all before it, keyed by this host's secret: damage, another
//! version and another key all make the file no cache at all, which costs one full read of the files and nothing else.

use std::collections::HashMap;
use std::io::{self, Write};

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::{Algorithm, Digest, TreePath};

use super::record::Record;

const MAGIC: [u8; 8] = *b"DPSCAN\0\x01";
const CHECKSUM_BYTES: usize = 32;
/// The fixed part of a record.
const RECORD_BYTES: usize = 2 + 3 * 8 + 4 * 8 + 3 * 4 + 1 + 32 + 1 + 16;
/// Bytes that are encoded before they are written: the whole file may be as long as everything else in memory.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

pub(super) type Records = HashMap<TreePath, Record, FastState>;

const fn code_of(algorithm: Algorithm) -> Option<u8> {
    match algorithm {
        Algorithm::Sha256 => Some(0x12),
        Algorithm::Blake3 => Some(0x1e),
        _ => None,
    }
}

const fn algorithm_of(code: u8) -> Option<Algorithm> {
    match code {
        0x12 => Some(Algorithm::Sha256),
        0x1e => Some(Algorithm::Blake3),
        _ => None,
    }
}

/// Encodes, record by record; one of an algorithm that the format does not know is left out.
pub(super) fn encode(records: &Records, checksum_key: &[u8; 32], out: &mut impl Write) -> io::Result<()> {
    let mut sorted: Vec<_> =
        records.iter().filter_map(|(path, record)| Some((path, record, entry_code(path, record)?))).collect();
    sorted.sort_unstable_by_key(|(path, ..)| path.as_bytes());
    let mut checksum = blake3::Hasher::new_keyed(checksum_key);
    let mut bytes = Vec::with_capacity(WRITTEN_AT_ONCE + RECORD_BYTES + usize::from(u16::MAX));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&(sorted.len() as u64).to_le_bytes());
    for (path, record, (length, code)) in sorted {
        bytes.extend_from_slice(&length.to_le_bytes());
        for number in [record.dev, record.ino, record.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for time in [record.mtime, record.ctime, record.recorded_at, record.proved_at] {
            bytes.extend_from_slice(&time.to_le_bytes());
        }
        for number in [record.mode, record.uid, record.gid] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(code);
        bytes.extend_from_slice(record.digest.bytes());
        bytes.push(u8::from(record.fingerprint.is_some()));
        bytes.extend_from_slice(&record.fingerprint.unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        if bytes.len() >= WRITTEN_AT_ONCE {
            checksum.update(&bytes);
            out.write_all(&bytes)?;
            bytes.clear();
        }
    }
    checksum.update(&bytes);
    bytes.extend_from_slice(checksum.finalize().as_bytes());
    out.write_all(&bytes)
}

fn entry_code(path: &TreePath, record: &Record) -> Option<(u16, u8)> {
    Some((u16::try_from(path.as_bytes().len()).ok()?, code_of(record.digest.algorithm())?))
}

/// Decodes; `None` when anything at all is wrong.
pub(super) fn decode(bytes: &[u8], checksum_key: &[u8; 32]) -> Option<Records> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    let checksum: [u8; CHECKSUM_BYTES] = checksum.try_into().ok()?;
    let mut rest = Reader(body.strip_prefix(&MAGIC)?);
    if blake3::keyed_hash(checksum_key, body) != checksum {
        return None;
    }
    decode_records(&mut rest)
}

fn decode_records(rest: &mut Reader<'_>) -> Option<Records> {
    let count = usize::try_from(u64::from_le_bytes(rest.take()?)).ok()?;
    // Nothing is allocated that the bytes present could not fill.
    if count > rest.0.len() / RECORD_BYTES {
        return None;
    }
    let mut records = Records::with_capacity_and_hasher(count, FastState::default());
    for _ in 0..count {
        let (path, record) = decode_record(rest)?;
        records.insert(path, record);
    }
    (rest.0.is_empty() && records.len() == count).then_some(records)
}

fn decode_record(rest: &mut Reader<'_>) -> Option<(TreePath, Record)> {
    let length = usize::from(u16::from_le_bytes(rest.take()?));
    let mut u64s = || rest.take().map(u64::from_le_bytes);
    let (dev, ino, size) = (u64s()?, u64s()?, u64s()?);
    let mut i64s = || rest.take().map(i64::from_le_bytes);
    let (mtime, ctime, recorded_at, proved_at) = (i64s()?, i64s()?, i64s()?, i64s()?);
    let mut u32s = || rest.take().map(u32::from_le_bytes);
    let (mode, uid, gid) = (u32s()?, u32s()?, u32s()?);
    let [code] = rest.take()?;
    let digest = Digest::new(algorithm_of(code)?, rest.take()?);
    let [flag] = rest.take()?;
    let value = u128::from_le_bytes(rest.take()?);
    let fingerprint = match flag {
        0 => None,
        1 => Some(value),
        _ => return None,
    };
    let (path, tail) = rest.0.split_at_checked(length)?;
    rest.0 = tail;
    let path = TreePath::from_bytes(path).ok()?;
    Some((path, Record { dev, ino, size, mtime, ctime, mode, uid, gid, recorded_at, proved_at, digest, fingerprint }))
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [5; 32];

    prop_compose! {
        fn record()(
            numbers in any::<[u64; 3]>(),
            times in any::<[i64; 4]>(),
            ids in any::<[u32; 3]>(),
            sha in any::<bool>(),
            hash in any::<[u8; 32]>(),
            fingerprint in any::<Option<u128>>(),
        ) -> Record {
            let [dev, ino, size] = numbers;
            let [mtime, ctime, recorded_at, proved_at] = times;
            let [mode, uid, gid] = ids;
            let digest = Digest::new(if sha { Algorithm::Sha256 } else { Algorithm::Blake3 }, hash);
            Record { dev, ino, size, mtime, ctime, mode, uid, gid, recorded_at, proved_at, digest, fingerprint }
        }
    }

    fn encoded(records: &Records) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(records, &KEY, &mut bytes).unwrap();
        bytes
    }

    fn records() -> impl Strategy<Value = Records> {
        let path =
            proptest::collection::vec(any::<u8>(), 1..20).prop_filter_map("a path", |bytes| TreePath::from_bytes(&bytes).ok());
        proptest::collection::hash_map(path, record(), 0..8).prop_map(|records| records.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trips(records in records()) {
            prop_assert_eq!(decode(&encoded(&records), &KEY), Some(records));
        }

        #[test]
        fn damage_anywhere_makes_it_no_cache(records in records(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut bytes = encoded(&records);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode(&bytes, &KEY), None);
            prop_assert_eq!(decode(&bytes[..at], &KEY), None);
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(decode(&bytes, &KEY), None);
            // The same behind a valid checksum, so that the records themselves are reached.
            drop(decode_records(&mut Reader(&bytes)));
            let body = [&MAGIC, &1_u64.to_le_bytes(), bytes.as_slice()].concat();
            let sum = blake3::keyed_hash(&KEY, &body);
            drop(decode(&[body.as_slice(), sum.as_bytes()].concat(), &KEY));
        }
    }

    #[test]
    fn what_is_written_in_several_pieces_is_one_cache() {
        let path = |number: u32| TreePath::from_bytes(format!("etc/app/{number}").as_bytes()).unwrap();
        let stat = crate::fs::Stat::from_raw(&rustix::fs::stat("/").unwrap());
        let record = |number: u32| Record::new(&stat, Digest::of(&number.to_le_bytes()), None, 1, 2);
        let records: Records = (0..5000).map(|number| (path(number), record(number))).collect();
        let bytes = encoded(&records);
        assert!(bytes.len() > 4 * WRITTEN_AT_ONCE, "{}", bytes.len());
        assert_eq!(decode(&bytes, &KEY), Some(records));
    }

    #[test]
    fn another_key_is_no_cache() {
        let bytes = encoded(&Records::default());
        assert_eq!(decode(&bytes, &KEY), Some(Records::default()));
        assert_eq!(decode(&bytes, &[6; 32]), None);
    }
}

use std::collections::BTreeMap;
use std::io::Read as _;

use proptest::prelude::*;

use super::*;
use crate::store::Put;
use crate::tree::{OneRead, ReadTogether};

fn contents(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("content {number} ").repeat(1 + number % 50).into_bytes()).collect()
}

fn open(dir: &tempfile::TempDir) -> Store {
    let store = Store::ensure(&dir.path().join("store")).unwrap();
    store.remove_leftovers().unwrap();
    store
}

fn put_all(store: &Store, contents: &[Vec<u8>]) {
    let batch = store.batch();
    for content in contents {
        assert!(batch.put_bytes(content).unwrap().is_new);
    }
    batch.finish().unwrap();
    store.sync().unwrap();
}

fn whole(store: &Store, digest: &Digest) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    store.content(digest).unwrap()?.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

fn pack_files(store: &Store) -> Vec<PathBuf> {
    let mut paths = list(&store.dir.join("packs")).unwrap();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "pack"));
    paths
}

#[test]
fn what_a_batch_takes_is_found_after_it_and_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let contents = contents(500);
    put_all(&store, &contents);
    assert_eq!((pack_files(&store).len(), store.digests().unwrap().len()), (1, 500));
    assert_eq!(list(&store.dir.join("incoming")).unwrap(), Vec::<PathBuf>::new());
    for store in [store, open(&dir)] {
        for content in &contents {
            let digest = Digest::of(content);
            assert!(store.has(&digest) && store.has_verified(&digest).unwrap() && store.keep(&digest).unwrap());
            assert_eq!(store.read(&digest, 1 << 20).unwrap().unwrap(), content);
            assert_eq!(whole(&store, &digest).unwrap(), *content);
            assert!(!store.put_bytes(content).unwrap().is_new && !store.batch().put_bytes(content).unwrap().is_new);
        }
        assert!(store.read(&Digest::of(&contents[7]), 1).is_err(), "it is longer than that");
        assert!(!store.has(&Digest::of(b"never put")) && whole(&store, &Digest::of(b"never put")).is_none());
    }
}

#[test]
fn few_contents_and_large_ones_get_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let large = vec![7; 70_000];
    put_all(&store, &contents(10));
    put_all(&store, std::slice::from_ref(&large));
    assert_eq!(pack_files(&store), Vec::<PathBuf>::new());
    assert!(store.open(&Digest::of(&large)).unwrap().is_some());
    assert_eq!(store.digests().unwrap().len(), 11);
}

#[test]
fn files_are_taken_whole_whatever_their_size_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let path = dir.path().join("source");
    let limit = usize::try_from(MAX_PACKED_BYTES).unwrap();
    for len in [0, 1, 100, limit - 1, limit, limit + 1, 3 * limit] {
        for told in [0, 1, len / 2, len.saturating_sub(1), len, len + 1, 2 * len + 5] {
            let batch = store.batch();
            let content = format!("{len} {told} ").into_bytes().into_iter().cycle().take(len).collect::<Vec<u8>>();
            std::fs::write(&path, &content).unwrap();
            let put = batch.put_file(&File::open(&path).unwrap(), told as u64).unwrap();
            assert_eq!((put.digest, put.size), (Digest::of(&content), len as u64), "{len} bytes, {told} expected");
            batch.finish().unwrap();
            assert_eq!(whole(&store, &put.digest).unwrap(), content);
        }
    }
}

#[test]
fn a_batch_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let batch = store.batch();
    for content in contents(40_000) {
        batch.put_bytes(&content).unwrap();
    }
    assert_eq!(list(&store.dir.join("incoming")).unwrap().len(), 1, "nothing was written, so nothing is shown");
    drop(batch);
    assert_eq!(list(&store.dir.join("incoming")).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(store.digests().unwrap(), Vec::new());
}

#[test]
fn threads_share_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let contents = contents(20_000);
    let batch = store.batch();
    let new: usize = std::thread::scope(|scope| {
        let put = || contents.iter().filter(|content| batch.put_bytes(content).unwrap().is_new).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(put)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(new, contents.len(), "each is new once");
    batch.finish().unwrap();
    assert_eq!(pack_files(&store).len(), 1);
    let store = open(&dir);
    assert!(contents.iter().all(|content| store.has_verified(&Digest::of(content)).unwrap()));
}

#[test]
fn a_damaged_content_is_gone_for_good_until_it_is_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let contents = contents(100);
    put_all(&store, &contents);
    let pack = &pack_files(&store)[0];
    let mut bytes = std::fs::read(pack).unwrap();
    let at = bytes.windows(contents[20].len()).position(|window| window == contents[20]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(pack, &bytes).unwrap();
    let store = open(&dir);
    let digest = Digest::of(&contents[20]);
    assert!(store.has(&digest));
    assert_eq!(store.read(&digest, 1 << 20).unwrap_err().kind, crate::fs::FsErrorKind::DigestMismatch);
    assert!(store.dir.join("damaged").join(digest.to_hex()).exists());
    for store in [store, open(&dir)] {
        assert!(!store.has(&digest) && !store.has_verified(&digest).unwrap() && store.read(&digest, 1 << 20).unwrap().is_none());
        assert_eq!(store.digests().unwrap().len(), 99);
    }
    let store = open(&dir);
    put_all(&store, &contents[20..21]);
    for store in [store, open(&dir)] {
        assert_eq!(store.read(&digest, 1 << 20).unwrap().unwrap(), contents[20]);
    }
}

#[test]
fn a_damaged_index_costs_no_content() {
    let contents = contents(100);
    // A head, the number of contents, where heads begin, the hash of the heads, the end.
    for from_the_end in [56 + 44 * 100, 56, 48, 40, 1] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        put_all(&store, &contents);
        let removed = Digest::of(&contents[3]);
        store.lose_packed(&removed).unwrap();
        let pack = pack_files(&store).remove(0);
        let mut bytes = std::fs::read(&pack).unwrap();
        let at = bytes.len() - from_the_end;
        bytes[at] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
        let store = open(&dir);
        for content in &contents {
            assert_eq!(whole(&store, &Digest::of(content)).as_ref(), Some(content), "{from_the_end}");
        }
        assert_eq!(list(&dir.path().join("store/damaged")).unwrap().len(), 1);
        assert!(!pack.exists() && list(&dir.path().join("store/packs")).unwrap().len() == 1);
    }
}

#[test]
fn a_content_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let contents = contents(100);
    put_all(&store, &contents);
    let digest = Digest::of(&contents[5]);
    store.discard(&digest).unwrap();
    for store in [store, open(&dir)] {
        assert!(!store.has(&digest) && store.has(&Digest::of(&contents[6])));
    }
}

#[test]
fn packs_of_which_little_is_wanted_are_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let contents = contents(300);
    for part in contents.chunks(100) {
        put_all(&store, part);
    }
    let digests: Vec<Digest> = contents.iter().map(|content| Digest::of(content)).collect();
    // Nothing of the first, 10 of the second, 90 of the third.
    let wanted: HashSet<Digest> = digests[190..290].iter().copied().collect();
    let mut reader = store.content(&digests[0]).unwrap().unwrap();
    let (count, bytes) = store.retain(&|digest| wanted.contains(digest)).unwrap();
    assert_eq!((count, pack_files(&store).len()), (190, 1), "what is left of the second has files");
    assert!(bytes > 10_000);
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    assert_eq!(read, contents[0], "who reads it goes on");
    for store in [store, open(&dir)] {
        assert!(wanted.iter().all(|digest| store.has_verified(digest).unwrap()));
        assert!(digests[..190].iter().all(|digest| !store.has(digest)));
        assert!(digests[290..].iter().all(|digest| store.has_verified(digest).unwrap()), "they share a pack with what is wanted");
    }
}

#[test]
fn a_note_of_what_is_gone_that_was_cut_off_spoils_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let contents = contents(100);
    put_all(&store, &contents);
    store.remove(&Digest::of(&contents[3])).unwrap();
    let gone = pack_files(&store)[0].with_extension("gone");
    let mut bytes = std::fs::read(&gone).unwrap();
    bytes.extend_from_slice(&[1, 2, 3]);
    std::fs::write(&gone, bytes).unwrap();
    let store = open(&dir);
    store.remove(&Digest::of(&contents[50])).unwrap();
    for store in [store, open(&dir)] {
        let there = contents.iter().filter(|content| store.has(&Digest::of(content))).count();
        assert_eq!((there, store.has(&Digest::of(&contents[3])), store.has(&Digest::of(&contents[50]))), (98, false, false));
    }
}

#[test]
fn many_small_packs_are_joined() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let contents = contents(20 * 70);
    for part in contents.chunks(70) {
        put_all(&store, part);
    }
    assert_eq!(pack_files(&store).len(), 20);
    assert_eq!(store.retain(&|_| true).unwrap(), (0, 0));
    for store in [store, open(&dir)] {
        assert_eq!(pack_files(&store).len(), 9);
        assert!(contents.iter().all(|content| store.has_verified(&Digest::of(content)).unwrap()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any contents come back; the oracle is a map.
    #[test]
    fn any_contents_come_back(all in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 64..150)) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let batch = store.batch();
        for content in &all {
            batch.put_bytes(content).unwrap();
        }
        batch.finish().unwrap();
        let expected: BTreeMap<Digest, &Vec<u8>> = all.iter().map(|content| (Digest::of(content), content)).collect();
        for store in [store, open(&dir)] {
            let mut digests = store.digests().unwrap();
            digests.sort();
            prop_assert_eq!(&digests, &expected.keys().copied().collect::<Vec<_>>());
            for (digest, content) in &expected {
                prop_assert_eq!(&whole(&store, digest).unwrap(), *content);
            }
        }
    }

    /// Whatever happens to a pack's bytes, no content is taken for another one, and what is missing can be put again.
    #[test]
    fn damage_is_never_taken_for_a_content(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        near_the_end in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let contents = contents(80);
        put_all(&store, &contents);
        let pack = &pack_files(&store)[0];
        let mut bytes = std::fs::read(pack).unwrap();
        let uncut = bytes.len();
        let begin = if near_the_end { uncut - 4000 } else { 0 };
        for (at, flip) in &flips {
            let at = begin + at.index(bytes.len() - begin);
            bytes[at] ^= flip;
        }
        if let Some(cut) = &cut {
            bytes.truncate(begin + cut.index(bytes.len() - begin));
        }
        std::fs::write(pack, &bytes).unwrap();
        let store = open(&dir);
        let mut lost = 0;
        for content in &contents {
            let digest = Digest::of(content);
            match store.read(&digest, 1 << 20) {
                Ok(Some(found)) => prop_assert_eq!(found, content),
                Ok(None) => lost += 1,
                Err(error) => {
                    prop_assert_eq!(error.kind, crate::fs::FsErrorKind::DigestMismatch);
                    lost += 1;
                }
            }
        }
        // Of the two numbers that say where tails are, one is needed.
        let footer = uncut - 56;
        let hits = |number: usize| flips.iter().any(|(at, _)| (at.index(uncut - begin) + begin).wrapping_sub(footer + 8 * number) < 8);
        prop_assert!(cut.is_some() || lost <= flips.len() || hits(0) && hits(1), "{} lost of {}", lost, contents.len());
        let batch = store.batch();
        for content in &contents {
            batch.put_bytes(content).unwrap();
        }
        batch.finish().unwrap();
        for content in &contents {
            prop_assert_eq!(store.read(&Digest::of(content), 1 << 20).unwrap().unwrap(), content);
        }
    }
}

/// Lays contents one after another in a buffer with something behind them, as they are read.
fn laid(contents: &[(usize, Vec<u8>)]) -> ReadTogether {
    let (mut bytes, mut files) = (Vec::new(), Vec::new());
    for (index, content) in contents {
        let place = bytes.len()..bytes.len() + content.len();
        bytes.extend_from_slice(content);
        files.push(OneRead { index: *index, digest: Digest::of(content), place });
    }
    bytes.extend_from_slice(b"of an earlier use");
    ReadTogether { bytes, files }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Contents of which some are twice there, in a run or in several, and some were there before: the same comes of it as of each by itself.
    #[test]
    fn what_is_put_together_is_as_if_it_were_put_one_by_one(
        before in prop::collection::vec(0_u32..300, 0..100),
        runs in prop::collection::vec((prop::collection::vec(0_u32..300, 0..120), 1_usize..400), 1..6),
    ) {
        let content = |number: &u32, repeat: usize| format!("{number} ").repeat(repeat * (*number as usize % 7)).into_bytes();
        let stores = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut results: Vec<(Vec<Put>, Vec<Digest>)> = Vec::new();
        for (dir, is_together) in stores.iter().zip([true, false]) {
            let store = open(dir);
            let batch = store.batch();
            for number in &before {
                batch.put_bytes(&content(number, 3)).unwrap();
            }
            batch.finish().unwrap();
            let batch = store.batch();
            let mut puts = Vec::new();
            for (run, repeat) in &runs {
                let contents: Vec<(usize, Vec<u8>)> = run.iter().map(|number| content(number, *repeat)).enumerate().collect();
                if is_together {
                    let mut put = batch.put_together(&mut laid(&contents)).unwrap();
                    put.sort_by_key(|(index, _)| *index);
                    prop_assert!(put.iter().map(|(index, _)| *index).eq(0..run.len()));
                    puts.extend(put.into_iter().map(|(_, put)| put));
                } else {
                    puts.extend(contents.iter().map(|(_, content)| batch.put_bytes(content).unwrap()));
                }
            }
            batch.finish().unwrap();
            drop(store);
            // As it is found by who opens it later.
            let store = open(dir);
            for put in &puts {
                prop_assert!(store.has_verified(&put.digest).unwrap());
                prop_assert_eq!(whole(&store, &put.digest).unwrap().len() as u64, put.size);
            }
            let mut digests = store.digests().unwrap();
            digests.sort();
            results.push((puts, digests));
        }
        prop_assert_eq!(&results[0], &results[1]);
    }
}

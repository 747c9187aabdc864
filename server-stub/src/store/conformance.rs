//! What every store has to do: run [`run`] against yours.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a suite of tests")]

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use direct_puppet_transport::FetchItem;
use direct_puppet_transport::protocol::Digest;
use futures::{StreamExt as _, TryStreamExt as _};

use super::{Blob, BlobStore, Generation, MAX_NAME_BYTES, PointerStore, SharedStore};

/// Runs everything. `other` is the same store as another process sees it.
pub async fn run(store: &SharedStore, other: &SharedStore) {
    contents(&*store.blobs, &*other.blobs).await;
    contents_that_broke_off(&*store.blobs).await;
    contents_put_by_many(&*store.blobs, &*other.blobs).await;
    removal(&*store.blobs).await;
    pointers(&*store.pointers, &*other.pointers).await;
    names(&*store.pointers).await;
    races(store, other).await;
    hints(&*store.pointers, &*other.pointers).await;
}

/// A content of `size` bytes, another for each seed.
fn content(seed: u8, size: usize) -> Bytes {
    let mut bytes: Vec<u8> = (0..size).map(|at| (at.wrapping_mul(31) ^ (at >> 8)).to_le_bytes()[0].wrapping_add(seed)).collect();
    bytes.extend_from_slice(&[seed]);
    bytes.truncate(size.max(usize::from(size > 0)));
    bytes.into()
}

fn blob(content: &Bytes) -> Blob {
    let chunks: Vec<io::Result<Bytes>> = content.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    Blob { digest: Digest::of(content), size: content.len() as u64, body: futures::stream::iter(chunks).boxed() }
}

async fn get(store: &dyn BlobStore, digests: Vec<Digest>) -> BTreeMap<Digest, Option<Bytes>> {
    let mut items = store.get(digests);
    let mut found = BTreeMap::new();
    while let Some(item) = items.try_next().await.unwrap() {
        let (digest, content) = match item {
            FetchItem::Missing(digest) => (digest, None),
            FetchItem::Pack(pack, _) => panic!("a store answers with {pack:?}"),
            FetchItem::Content(content) => {
                let body: Vec<Bytes> = content.body.try_collect().await.unwrap();
                let whole = body.iter().fold(BytesMut::new(), |mut whole, chunk| {
                    whole.extend_from_slice(chunk);
                    whole
                });
                assert_eq!((whole.len() as u64, content.offset), (content.size, 0));
                (content.digest, Some(whole.freeze()))
            }
        };
        assert!(found.insert(digest, content).is_none(), "{digest} came twice");
    }
    found
}

async fn contents(store: &dyn BlobStore, other: &dyn BlobStore) {
    let sizes = [0, 1, 1000, 1024 * 1024, 1024 * 1024 + 1, 5_000_000];
    let all: Vec<Bytes> = sizes.iter().map(|size| content(1, *size)).collect();
    let digests: Vec<Digest> = all.iter().map(|content| Digest::of(content)).collect();
    assert_eq!(store.missing(&digests).await.unwrap(), digests.iter().copied().collect());
    assert!(get(store, digests.clone()).await.values().all(Option::is_none));
    let (small, large): (Vec<&Bytes>, Vec<&Bytes>) = all.iter().partition(|content| content.len() <= 1024 * 1024);
    let named = |content: &&Bytes| (Digest::of(content), Bytes::clone(content));
    store.put_small(small.iter().map(named).collect()).await.unwrap();
    for content in large.iter().chain(&small) {
        // What is there already is no error, either way.
        store.put(blob(content)).await.unwrap();
    }
    store.put_small(small.iter().map(named).collect()).await.unwrap();
    for store in [store, other] {
        assert_eq!(store.missing(&digests).await.unwrap(), HashSet::new());
        let absent = Digest::of(b"never put");
        let found = get(store, digests.iter().copied().chain([absent]).collect()).await;
        assert_eq!(found.len(), digests.len() + 1);
        assert_eq!(found[&absent], None);
        for content in &all {
            assert!(found[&Digest::of(content)].as_ref() == Some(content), "{} bytes", content.len());
        }
        assert!(store.all().await.unwrap().is_superset(&digests.iter().copied().collect()));
    }
    assert!(get(store, Vec::new()).await.is_empty());
    // Many, in several groups.
    let many: Vec<(Digest, Bytes)> = (0..2000_u32)
        .map(|number| {
            let content = Bytes::from(number.to_le_bytes().repeat(600));
            (Digest::of(&content), content)
        })
        .collect();
    store.put_small(many.clone()).await.unwrap();
    let found = get(other, many.iter().map(|(digest, _)| *digest).collect()).await;
    assert!(many.iter().all(|(digest, content)| found[digest].as_ref() == Some(content)));
}

async fn contents_that_broke_off(store: &dyn BlobStore) {
    let whole = content(2, 3_000_000);
    let digest = Digest::of(&whole);
    let cut = Blob {
        body: futures::stream::iter([Ok(whole.slice(..2_000_000)), Err(io::Error::other("cut"))]).boxed(),
        ..blob(&whole)
    };
    let short = Blob { body: futures::stream::iter([Ok(whole.slice(..2_000_000))]).boxed(), ..blob(&whole) };
    for broken in [cut, short] {
        store.put(broken).await.unwrap_err();
        assert_eq!(store.missing(&[digest]).await.unwrap().len(), 1);
        assert_eq!(get(store, vec![digest]).await[&digest], None);
    }
    // Given up in the middle.
    let endless = Blob {
        body: futures::stream::iter([Ok(whole.slice(..2_000_000))]).chain(futures::stream::pending()).boxed(),
        ..blob(&whole)
    };
    tokio::time::timeout(Duration::from_millis(500), store.put(endless)).await.unwrap_err();
    assert_eq!(get(store, vec![digest]).await[&digest], None);
    store.put(blob(&whole)).await.unwrap();
    assert!(get(store, vec![digest]).await[&digest].as_ref() == Some(&whole));
}

async fn contents_put_by_many(store: &dyn BlobStore, other: &dyn BlobStore) {
    let all: Vec<Bytes> = (0..40).map(|seed| content(seed, 30_000)).collect();
    let named = |order: &dyn Fn(usize) -> usize| {
        let contents = (0..all.len()).map(|at| all[order(at)].clone());
        contents.map(|content| (Digest::of(&content), content)).collect::<Vec<_>>()
    };
    let (forth, back) = (named(&|at| at), named(&|at| all.len() - 1 - at));
    let digests: Vec<Digest> = forth.iter().map(|(digest, _)| *digest).collect();
    let (a, b, c, d) = futures::join!(
        store.put_small(forth.clone()),
        other.put_small(back.clone()),
        store.missing(&digests),
        other.missing(&digests)
    );
    a.unwrap();
    b.unwrap();
    c.unwrap();
    d.unwrap();
    let found = get(store, digests).await;
    assert!(forth.iter().all(|(digest, content)| found[digest].as_ref() == Some(content)));
    let large = content(7, 2_500_000);
    let (a, b) = futures::join!(store.put(blob(&large)), other.put(blob(&large)));
    a.unwrap();
    b.unwrap();
    assert!(get(store, vec![Digest::of(&large)]).await[&Digest::of(&large)].as_ref() == Some(&large));
}

async fn removal(store: &dyn BlobStore) {
    let (old, large) = (content(3, 500), content(3, 2_000_000));
    let digests = [Digest::of(&old), Digest::of(&large), Digest::of(b"never put")];
    store.put_small(vec![(digests[0], old)]).await.unwrap();
    store.put(blob(&large)).await.unwrap();
    // Nothing is as old as that.
    assert_eq!(store.remove(&digests, Duration::from_secs(3600)).await.unwrap(), 0);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    // One is asked for: it is as if it had been put just now.
    store.missing(&digests[1..2]).await.unwrap();
    assert_eq!(store.remove(&digests, Duration::from_secs(1)).await.unwrap(), 1);
    let found = get(store, digests.to_vec()).await;
    assert!(found[&digests[0]].is_none() && found[&digests[1]].as_ref() == Some(&large));
    assert_eq!(store.remove(&digests, Duration::ZERO).await.unwrap(), 1);
    assert!(!store.all().await.unwrap().contains(&digests[1]));
}

async fn pointers(store: &dyn PointerStore, other: &dyn PointerStore) {
    let name = "test/a/one";
    let (first, second) = (Bytes::from_static(b"\0first\n\xff"), Bytes::new());
    assert_eq!(store.get(name).await.unwrap(), None);
    assert!(!store.swap(name, Some(Generation(1)), Some(first.clone())).await.unwrap());
    assert!(store.swap(name, None, None).await.unwrap());
    assert!(store.swap(name, None, Some(first.clone())).await.unwrap());
    assert!(!other.swap(name, None, Some(second.clone())).await.unwrap());
    let found = other.get(name).await.unwrap().unwrap();
    assert_eq!(found.value, first);
    assert!(other.swap(name, Some(found.generation), Some(second.clone())).await.unwrap());
    assert!(!store.swap(name, Some(found.generation), Some(first.clone())).await.unwrap());
    let next = store.get(name).await.unwrap().unwrap();
    assert!(next.value == second && next.generation != found.generation);
    // The same value is another generation all the same, and a removed pointer never comes back with an old one.
    assert!(store.swap(name, Some(next.generation), Some(second.clone())).await.unwrap());
    assert!(!store.swap(name, Some(next.generation), None).await.unwrap());
    let last = store.get(name).await.unwrap().unwrap();
    assert!(store.swap(name, Some(last.generation), None).await.unwrap());
    assert_eq!(other.get(name).await.unwrap(), None);
    assert!(store.swap(name, None, Some(first)).await.unwrap());
    let again = store.get(name).await.unwrap().unwrap().generation;
    assert!([found.generation, next.generation, last.generation].iter().all(|before| *before != again));
}

async fn names(store: &dyn PointerStore) {
    for name in ["test/list/b", "test/list/a.b", "test/list/a/deep", "test/list-not", "test/list0"] {
        assert!(store.swap(name, None, Some(name.to_owned().into())).await.unwrap(), "{name}");
    }
    let wanted = ["test/list/a.b", "test/list/a/deep", "test/list/b"];
    assert_eq!(store.names("test/list/").await.unwrap(), wanted);
    let found = store.list("test/list/").await.unwrap();
    assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), wanted);
    assert!(found.iter().all(|(name, pointer)| pointer.value == name.as_bytes()));
    assert!(store.list("test/nothing/").await.unwrap().is_empty());
    for name in ["", "/", "a//b", "a/../b", ".", "a/./b", "a b", "a\0b", "\u{e4}", &"a".repeat(MAX_NAME_BYTES + 1)] {
        assert!(store.swap(name, None, Some(Bytes::new())).await.is_err(), "{name:?}");
        assert!(store.get(name).await.is_err(), "{name:?}");
    }
}

/// Many add to one number at once: none is lost.
async fn races(store: &SharedStore, other: &SharedStore) {
    const ADDERS: usize = 8;
    const EACH: usize = 25;
    let adder = |pointers: std::sync::Arc<dyn PointerStore>| async move {
        let (mut added, mut lost) = (0, 0);
        while added < EACH {
            let before = pointers.get("test/sum").await.unwrap();
            let sum: usize = before.as_ref().map_or(0, |before| std::str::from_utf8(&before.value).unwrap().parse().unwrap());
            let generation = before.map(|before| before.generation);
            match pointers.swap("test/sum", generation, Some((sum + 1).to_string().into())).await.unwrap() {
                true => added += 1,
                false => lost += 1,
            }
        }
        lost
    };
    let tasks: Vec<_> = (0..ADDERS)
        .map(|at| tokio::spawn(adder(std::sync::Arc::clone(if at % 2 == 0 { &store.pointers } else { &other.pointers }))))
        .collect();
    let mut lost = 0;
    for task in tasks {
        lost += task.await.unwrap();
    }
    assert_eq!(store.pointers.get("test/sum").await.unwrap().unwrap().value, (ADDERS * EACH).to_string());
    assert!(lost > 0, "nobody ever came second");
}

async fn hints(store: &dyn PointerStore, other: &dyn PointerStore) {
    // What was heard of before, and that listening begins.
    for _ in 0..5 {
        store.changed(Duration::from_millis(500)).await;
    }
    let begun = Instant::now();
    let change = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(other.swap("live/test", None, Some(Bytes::new())).await.unwrap());
    };
    futures::join!(store.changed(Duration::from_secs(30)), change);
    assert!(begun.elapsed() < Duration::from_secs(20), "the change was not heard of");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        // Nothing changes: it comes back in time.
        store.changed(Duration::from_millis(200)).await;
    }
    let generation = store.get("live/test").await.unwrap().map(|pointer| pointer.generation);
    assert!(store.swap("live/test", generation, None).await.unwrap());
}

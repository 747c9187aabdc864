//! Fetching.

use bytes::BytesMut;
use direct_puppet_transport::FetchItem;
use direct_puppet_transport::protocol::{Digest, EntryKind, Fetch};
use futures::StreamExt as _;

use super::*;

/// What came of one digest: its bytes, or `None` if it is missing.
type Fetched = BTreeMap<Digest, Option<Vec<u8>>>;

async fn fetch(server: &Server, name: &str, digests: &[Digest], offsets: &[(Digest, u64)]) -> std::io::Result<Fetched> {
    let request =
        Fetch { certname: certname(name), digests: digests.to_vec(), offsets: offsets.iter().copied().collect(), packed: None };
    let mut items = server.fetch(&Peer::InProcess, request).await.unwrap();
    let mut fetched = Fetched::new();
    while let Some(item) = items.next().await {
        let (digest, bytes) = match item? {
            FetchItem::Missing(digest) => (digest, None),
            FetchItem::Pack(pack, _) => panic!("{pack:?} was not asked for"),
            FetchItem::Content(mut content) => {
                let mut bytes = BytesMut::new();
                while let Some(chunk) = content.body.next().await {
                    bytes.extend_from_slice(&chunk?);
                }
                assert_eq!(bytes.len() as u64, content.size - content.offset);
                (content.digest, Some(bytes.to_vec()))
            }
        };
        assert!(fetched.insert(digest, bytes).is_none(), "{digest} was answered twice");
    }
    Ok(fetched)
}

fn named(catalog: &Catalog) -> Vec<Digest> {
    catalog.contents().map(|(digest, _)| digest).collect()
}

#[tokio::test]
async fn a_node_gets_what_its_own_catalogs_name_and_nothing_else() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (_, catalog) = compiled(&server, "n1").await;
    let (_, other) = compiled(&server, "n2").await;
    let own = named(&catalog);
    let fetched = fetch(&server, "n1", &own, &[]).await.unwrap();
    assert_eq!(fetched[&Digest::of(b"content a")].as_deref(), Some(&b"content a"[..]));
    assert_eq!(fetched[&Digest::of(b"n1 runs Linux\n")].as_deref(), Some(&b"n1 runs Linux\n"[..]));
    // Published but not in the catalog, compiled for another node, and not there at all look the same.
    let foreign = [Digest::of(SITE.as_bytes()), Digest::of(b"n2 runs Linux\n"), Digest::of(b"never seen")];
    assert!(named(&other).contains(&foreign[1]));
    let fetched = fetch(&server, "n1", &foreign, &[]).await.unwrap();
    assert!(fetched.len() == 3 && fetched.values().all(Option::is_none));
    assert!(fetch(&server, "stranger", &own, &[]).await.unwrap().values().all(Option::is_none));
}

#[tokio::test]
async fn the_catalog_before_can_still_be_fetched_from() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    compiled(&server, "n1").await;
    // Eight of the last minutes, and then no more, however fast it is published.
    for number in 2..=10 {
        let old_is_there = number <= 8;
        world.stage("modules/app/files/tree/a", format!("content number {number}"));
        publish_all(&server).await;
        compiled(&server, "n1").await;
        let fetched = fetch(&server, "n1", &[Digest::of(b"content a")], &[]).await.unwrap();
        assert_eq!(fetched[&Digest::of(b"content a")].is_some(), old_is_there, "{number}");
    }
}

/// Sizes: none, one, around the border between contents sent whole and in chunks, and several chunks with a rest.
#[tokio::test]
async fn every_size_and_offset_comes_whole() {
    const WHOLE: usize = 256 * 1024;
    let world = World::new();
    let mut contents = Vec::new();
    for (number, size) in [0, 1, WHOLE - 1, WHOLE, WHOLE + 1, 2 * WHOLE, 3 * WHOLE + 17].into_iter().enumerate() {
        let content: Vec<u8> = (0..size).map(|at| u8::try_from((at * 31 + number) % 251).unwrap()).collect();
        world.stage(&format!("modules/app/files/tree/size{size}"), &content);
        contents.push(content);
    }
    let server = world.open();
    publish_all(&server).await;
    compiled(&server, "n1").await;
    let mut digests: Vec<Digest> = contents.iter().map(|content| Digest::of(content)).collect();
    digests.push(digests[0]); // asked twice, answered once
    let whole = fetch(&server, "n1", &digests, &[]).await.unwrap();
    for content in &contents {
        let (digest, size) = (Digest::of(content), content.len() as u64);
        assert_eq!(whole[&digest].as_ref(), Some(content));
        for offset in [size / 2, size.saturating_sub(1), size] {
            let rest = fetch(&server, "n1", &[digest], &[(digest, offset)]).await.unwrap();
            let expected = &content[usize::try_from(offset).unwrap()..];
            assert_eq!(rest[&digest].as_deref(), Some(expected), "{size} from {offset}");
        }
    }
}

#[tokio::test]
async fn a_damaged_content_never_ends_as_if_it_were_whole() {
    let world = World::new();
    let (small, large) = (b"small".to_vec(), vec![7; 600 * 1024]);
    world.stage("modules/app/files/tree/small", &small);
    world.stage("modules/app/files/tree/large", &large);
    let server = world.open();
    publish_all(&server).await;
    compiled(&server, "n1").await;
    let (small_digest, large_digest) = (Digest::of(&small), Digest::of(&large));
    for digest in [small_digest, large_digest] {
        let path = server.store.path_of(&digest);
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(fetch(&server, "n1", &[small_digest], &[]).await.unwrap()[&small_digest], None);
    assert!(fetch(&server, "n1", &[large_digest], &[]).await.is_err());
    assert!(!server.store.has(&small_digest) && !server.store.has(&large_digest), "they were not moved aside");
    // Publishing again, though nothing changed, puts them back.
    assert!(!publish_all(&server).await.changed);
    let fetched = fetch(&server, "n1", &[small_digest, large_digest], &[]).await.unwrap();
    assert!(fetched[&small_digest] == Some(small) && fetched[&large_digest] == Some(large));
}

/// A peer that takes nothing holds no thread: with more of them than there are threads for blocking work, others are served.
#[test]
fn peers_that_take_nothing_hold_no_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(2).build().unwrap();
    runtime.block_on(async {
        let world = World::new();
        let large = vec![7; 2 * 1024 * 1024];
        world.stage("modules/app/files/tree/large", &large);
        let server = world.open();
        publish_all(&server).await;
        let (_, catalog) = compiled(&server, "n1").await;
        let digest = Digest::of(&large);
        assert!(catalog.contents().any(|(named, _)| named == digest));
        let mut stuck = Vec::new();
        for _ in 0..8 {
            let request = Fetch { certname: certname("n1"), digests: vec![digest], offsets: BTreeMap::new(), packed: None };
            let mut items = server.fetch(&Peer::InProcess, request).await.unwrap();
            let Some(Ok(FetchItem::Content(mut content))) = items.next().await else { panic!("no content") };
            content.body.next().await.unwrap().unwrap();
            stuck.push((items, content));
        }
        assert_eq!(fetch(&server, "n1", &[digest], &[]).await.unwrap()[&digest].as_ref(), Some(&large));
    });
}

#[tokio::test]
async fn many_small_contents_come_in_one_fetch() {
    const FILES: usize = 1_000;
    let world = World::new();
    for number in 0..FILES {
        world.stage(&format!("modules/app/files/tree/many/{number}"), format!("number {number}"));
    }
    let server = world.open();
    publish_all(&server).await;
    let (_, catalog) = compiled(&server, "n1").await;
    let files = catalog.resources.iter().filter_map(|resource| resource.resolved.as_ref()).flat_map(|resolved| &resolved.entries);
    assert!(files.filter(|entry| matches!(entry.kind, EntryKind::File { .. })).count() > FILES);
    let fetched = fetch(&server, "n1", &named(&catalog), &[]).await.unwrap();
    assert!(fetched.len() > FILES && fetched.iter().all(|(digest, bytes)| digest.verifies(bytes.as_ref().unwrap())));
}

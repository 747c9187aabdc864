//! Fetching by place, packed.

use bytes::Bytes;
use direct_puppet_transport::FetchItem;
use direct_puppet_transport::protocol::compress::decompress;
use direct_puppet_transport::protocol::pack::ZSTD;
use direct_puppet_transport::protocol::packed_catalog::{CATALOG_IN_COLUMNS, PACKED_CATALOG, unpack_catalog};
use direct_puppet_transport::protocol::{
    CatalogId, CatalogLayout, Digest, Encoding, Fetch, Pack, PackedFetch, RefusalCode, Span,
};
use futures::StreamExt as _;

use super::*;

/// Bytes that do not compress.
pub(super) fn noise(seed: u8, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
    noise
}

pub(super) fn request(
    catalog_id: CatalogId,
    base: Option<CatalogId>,
    places: impl IntoIterator<Item = (u32, Option<u32>)>,
) -> PackedFetch {
    let spans = PackedFetch::spans(places);
    PackedFetch { catalog_id, base_catalog_id: base, encodings: vec![ZSTD.to_owned()], spans, part: None }
}

pub(super) async fn ask(server: &Server, name: &str, packed: PackedFetch) -> Result<Vec<std::io::Result<FetchItem>>, Refusal> {
    let request = Fetch { certname: certname(name), digests: Vec::new(), offsets: BTreeMap::new(), packed: Some(packed) };
    Ok(server.fetch(&Peer::InProcess, request).await?.collect().await)
}

pub(super) async fn packs(server: &Server, name: &str, packed: PackedFetch) -> Vec<(Pack, Bytes)> {
    let items = ask(server, name, packed).await.unwrap();
    let pack = |item: std::io::Result<FetchItem>| match item.unwrap() {
        FetchItem::Pack(pack, bytes) => {
            pack.check().unwrap();
            assert_eq!(bytes.len() as u64, pack.length);
            (pack, bytes)
        }
        other => panic!("no pack but {other:?}"),
    };
    items.into_iter().map(pack).collect()
}

/// Puts packs together, given how long each content is and what stands in its place at the node.
fn unpack(packs: &[(Pack, Bytes)], contents: &[(usize, &[u8])]) -> Vec<Vec<u8>> {
    let mut found = vec![Vec::new(); contents.len()];
    for (pack, bytes) in packs {
        let first = pack.first as usize;
        let several = &contents[first..first + pack.count as usize];
        let base = match pack.base {
            Some(base) if pack.count == 1 => {
                let at = usize::try_from(base.at).unwrap();
                several[0].1[at..at + usize::try_from(base.size).unwrap()].to_vec()
            }
            Some(_) => several.iter().flat_map(|(_, base)| base.to_vec()).collect(),
            None => Vec::new(),
        };
        let size = usize::try_from(pack.size).unwrap();
        let content = match pack.encoding {
            Encoding::Identity => bytes.to_vec(),
            Encoding::Copy => base,
            _ => decompress(bytes, &base, size).unwrap(),
        };
        assert_eq!(content.len(), size);
        let mut rest = &content[..];
        for (at, (size, _)) in several.iter().enumerate() {
            let size = if pack.count == 1 { rest.len() } else { *size };
            assert!(pack.count > 1 || found[first].len() as u64 == pack.at, "a part is out of order");
            found[first + at].extend_from_slice(&rest[..size]);
            rest = &rest[size..];
        }
    }
    found
}

/// Publishes `old` and then `new` as the files of a tree, and returns both catalogs of `n1` and the place of each file in them.
async fn two_versions(
    world: &World,
    server: &Arc<Server>,
    files: &[(Vec<u8>, Vec<u8>)],
) -> ((Held, Held), Vec<(u32, Option<u32>)>) {
    let mut versions = Vec::new();
    for is_new in [false, true] {
        for (number, (old, new)) in files.iter().enumerate() {
            world.stage(&format!("modules/app/files/tree/file{number:03}"), if is_new { new } else { old });
        }
        publish_all(server).await;
        versions.push(compiled(server, "n1").await);
    }
    let place = |catalog: &Catalog, content: &[u8]| {
        let at = catalog.contents().position(|(digest, _)| digest == Digest::of(content)).unwrap();
        u32::try_from(at).unwrap()
    };
    let places =
        files.iter().map(|(old, new)| (place(&versions[1].1, new), Some(place(&versions[0].1, old)))).collect::<Vec<_>>();
    ((versions[0].0, versions[1].0), places)
}

/// Sizes: none, one, around the borders of small contents and of parts, several parts with a rest; each with what an edit can be.
fn edits() -> Vec<(Vec<u8>, Vec<u8>)> {
    const PART: usize = 256 * 1024;
    let mut files = Vec::new();
    for (seed, size) in (0..).zip([1, 100, PART - 1, PART, PART + 1, 3 * PART + 17, 24 * PART]) {
        let old = noise(seed, size);
        let (half, third) = (size / 2, size / 3);
        let mut flipped = old.clone();
        flipped[half] ^= 1;
        files.push((old.clone(), flipped));
        let tagged = |tag: &[u8]| [tag, &seed.to_be_bytes()[..]].concat();
        files.push((tagged(b"before"), [&tagged(b"before")[..], &old].concat()));
        files.push(([&old[..], b"longer"].concat(), [&old[..half], &noise(seed ^ 0x80, PART * 2), &old[half..]].concat()));
        files.push(([&old[..], b"cut"].concat(), [&old[..third], &old[half..], b"end"].concat()));
        files.push(([&old[..], b"swap"].concat(), [&old[half..], b"-", &old[..half]].concat()));
        files.push(([&old[..], b"gone"].concat(), tagged(b"now short")));
    }
    files.push((b"was something".to_vec(), Vec::new()));
    files
}

#[tokio::test]
async fn every_size_and_edit_comes_out_as_it_was() {
    let world = World::new();
    let server = world.open();
    let files = edits();
    let ((old, new), places) = two_versions(&world, &server, &files).await;
    let contents: Vec<(usize, &[u8])> = files.iter().map(|(old, new)| (new.len(), &old[..])).collect();
    let expected: Vec<Vec<u8>> = files.iter().map(|(_, new)| new.clone()).collect();
    let whole: u64 = expected.iter().map(|content| content.len() as u64).sum();
    let with_base = request(new.catalog_id, Some(old.catalog_id), places.iter().copied());
    let without_base = request(new.catalog_id, None, places.iter().map(|(place, _)| (*place, None)));
    let plain = PackedFetch { encodings: vec!["another".to_owned()], ..with_base.clone() };
    let mut sums = Vec::new();
    for request in [with_base, without_base, plain] {
        let packs = packs(&server, "n1", request).await;
        assert!(unpack(&packs, &contents) == expected, "another content came out");
        sums.push(packs.iter().map(|(pack, _)| pack.length).sum::<u64>());
    }
    // Noise that was put in has to travel: the seven seeds' half MiB each, and what is new before small files.
    assert!(sums[0] < whole / 2 && sums[1] > whole * 9 / 10 && sums[2] == whole, "{sums:?} of {whole}");
}

#[tokio::test]
async fn small_edits_cost_a_hundredth() {
    let world = World::new();
    let server = world.open();
    let text = |seed: u8| noise(seed, 2000).iter().flat_map(|byte| format!("{byte:02x} ").into_bytes()).collect::<Vec<u8>>();
    let edited = |seed: u8| [&text(seed)[..1000], b"an edit of a few bytes", &text(seed)[1000..]].concat();
    let files: Vec<_> = (0..200).map(|seed| (text(seed), edited(seed))).collect();
    let ((old, new), places) = two_versions(&world, &server, &files).await;
    let packs = packs(&server, "n1", request(new.catalog_id, Some(old.catalog_id), places)).await;
    let (bytes, whole) = (packs.iter().map(|(pack, _)| pack.length).sum::<u64>(), 200 * 6022);
    assert!(bytes < whole / 100, "{bytes} of {whole}");
    assert!(packs.len() <= 5, "{} packs", packs.len());
}

/// Contents that do not compress, against as many that are no help: every pack is as full as may be, and each is told before the next is made.
#[tokio::test]
async fn full_packs_follow_each_other() {
    let world = World::new();
    let server = world.open();
    let files: Vec<_> = (0..=255_u8).map(|seed| (noise(seed, 12_000), noise(seed.wrapping_add(1), 12_001))).collect();
    let ((old, new), places) = two_versions(&world, &server, &files).await;
    let contents: Vec<(usize, &[u8])> = files.iter().map(|(old, new)| (new.len(), &old[..])).collect();
    let packs = packs(&server, "n1", request(new.catalog_id, Some(old.catalog_id), places)).await;
    assert_eq!(unpack(&packs, &contents), files.iter().map(|(_, new)| new.clone()).collect::<Vec<_>>());
    // 87 contents are a mebibyte.
    assert_eq!(packs.iter().map(|(pack, _)| pack.count).collect::<Vec<_>>(), [87, 87, 82]);
}

/// How well something compresses against a content says what is in that content: nobody may compare with what is not his.
#[tokio::test]
async fn a_node_can_name_nothing_that_its_own_catalogs_do_not() {
    let world = World::new();
    let server = world.open();
    let files = [(noise(1, 5000), [&noise(1, 5000)[..], b"edit"].concat())];
    let ((old, new), places) = two_versions(&world, &server, &files).await;
    let (foreign, other) = compiled(&server, "n2").await;
    // Neither contents of another's catalog, nor of one that nobody has: no answer at all, as from a server that knows no packs.
    for catalog_id in [foreign.catalog_id, CatalogId::of(b"nobody's")] {
        assert!(ask(&server, "n1", request(catalog_id, None, [(0, None)])).await.unwrap().is_empty());
        assert!(ask(&server, "stranger", request(catalog_id, None, [(0, None)])).await.unwrap().is_empty());
    }
    // Another's catalog as the base is none: the answer is the same as without one, to the byte.
    let place = other.contents().position(|(digest, _)| digest == Digest::of(&files[0].1)).unwrap();
    let alone = packs(&server, "n1", request(new.catalog_id, None, [(places[0].0, None)])).await;
    let base = Some(u32::try_from(place).unwrap());
    for base_catalog_id in [Some(foreign.catalog_id), Some(CatalogId::of(b"nobody's")), None] {
        let compared = packs(&server, "n1", request(new.catalog_id, base_catalog_id, [(places[0].0, base)])).await;
        assert_eq!(compared, alone);
    }
    let own = packs(&server, "n1", request(new.catalog_id, Some(old.catalog_id), places)).await;
    assert!(own[0].0.length < alone[0].0.length / 10);
}

#[tokio::test]
async fn places_that_are_none_are_refused() {
    let world = World::new();
    let server = world.open();
    publish_all(&server).await;
    let (held, catalog) = compiled(&server, "n1").await;
    let count = u32::try_from(catalog.contents().count()).unwrap();
    let ask_for = |spans: Vec<Span>| ask(&server, "n1", PackedFetch { spans, ..request(held.catalog_id, None, []) });
    let span = |first, count| Span { first, count, base: None };
    for spans in [vec![span(count, 1)], vec![span(0, u32::MAX)], vec![span(u32::MAX, 1)], vec![span(0, count), span(0, 1)]] {
        assert_eq!(ask_for(spans.clone()).await.unwrap_err().code, RefusalCode::BadRequest, "{spans:?}");
    }
    assert!(ask_for(vec![]).await.unwrap().is_empty());
    // A base that is none is only that.
    let base = [Span { first: 0, count, base: Some(u32::MAX) }].to_vec();
    let packed = PackedFetch { base_catalog_id: Some(held.catalog_id), spans: base, ..request(held.catalog_id, None, []) };
    assert!(packs(&server, "n1", packed).await.iter().all(|(pack, _)| pack.base.is_none()));
}

#[tokio::test]
async fn damage_is_never_passed_on() {
    let world = World::new();
    let server = world.open();
    let files = [
        (noise(1, 5000), [&noise(1, 5000)[..], b"edit"].concat()),
        (noise(2, 5000), [&noise(2, 5000)[..], b"edit"].concat()),
        (noise(3, 700_000), [&noise(3, 700_000)[..], b"edit"].concat()),
    ];
    let ((old, new), places) = two_versions(&world, &server, &files).await;
    let damage = |content: &[u8]| {
        let path = server.store.path_of(&Digest::of(content));
        let mut bytes = fs::read(&path).unwrap();
        bytes[100] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let ask_all = || ask(&server, "n1", request(new.catalog_id, Some(old.catalog_id), places.iter().copied()));
    // A damaged base is none.
    damage(&files[0].0);
    let items = ask_all().await.unwrap();
    assert!(matches!(&items[0], Ok(FetchItem::Pack(pack, _)) if pack.count == 1 && pack.base.is_none()), "{items:?}");
    assert!(matches!(&items[1], Ok(FetchItem::Pack(pack, _)) if pack.count == 1 && pack.base.is_some()), "{items:?}");
    // A damaged content is missing; of a large one the end never comes.
    damage(&files[1].1);
    damage(&files[2].1);
    let items = ask_all().await.unwrap();
    assert!(matches!(&items[1], Ok(FetchItem::Missing(digest)) if *digest == Digest::of(&files[1].1)), "{items:?}");
    assert!(items.last().unwrap().is_err(), "{items:?}");
}

#[tokio::test]
async fn a_catalog_comes_packed_against_the_one_that_is_held() {
    let world = World::new();
    let server = world.open();
    let files: Vec<_> = (0..100).map(|seed| (noise(seed, 10), noise(seed, 11))).collect();
    let ((old, new), _) = two_versions(&world, &server, &files).await;
    let whole = server.nodes.read(&certname("n1"), new.catalog_id).unwrap();
    let base = server.nodes.read(&certname("n1"), old.catalog_id).unwrap();
    let stranger = Held { catalog_id: CatalogId::of(b"lost"), ..old };
    let mut lengths = Vec::new();
    let as_it_is = (&[PACKED_CATALOG][..], CatalogLayout::AsItIs);
    let in_columns = (&[PACKED_CATALOG, "of another time", CATALOG_IN_COLUMNS][..], CatalogLayout::InColumns);
    for (features, expected) in [as_it_is, in_columns] {
        for (held, is_against) in [(Some(old), true), (Some(stranger), false), (None, false)] {
            let features = features.iter().map(|feature| (*feature).to_owned()).collect();
            let reply = server.check_in(&Peer::InProcess, CheckIn { features, ..check_in("n1", held) }).await.unwrap();
            let CatalogReply::Packed { catalog_id, is_against_held, layout, size, packed, .. } = reply else {
                panic!("{reply:?}")
            };
            assert_eq!((catalog_id, is_against_held, layout), (new.catalog_id, is_against, expected));
            let against = if is_against_held { &base[..] } else { b"" };
            assert_eq!(unpack_catalog(&packed, against, layout, size).unwrap(), whole);
            lengths.push(packed.len());
        }
    }
    // 100 digests of 32 bytes are new.
    assert!(lengths[0] < 100 * 32 + 2000 && lengths[0] < lengths[1], "{lengths:?} of {}", whole.len());
    assert!(lengths[3] < 100 * 32 + 300, "{lengths:?} of {}", whole.len());
    // Who does not say that he understands it gets it whole.
    let reply = server.check_in(&Peer::InProcess, check_in("n1", Some(old))).await.unwrap();
    assert!(matches!(reply, CatalogReply::Catalog { .. }));
}

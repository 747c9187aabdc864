//! How a large content is cut, and stretches of it.

use direct_puppet_transport::FetchItem;
use direct_puppet_transport::protocol::{CatalogId, Digest, Encoding, Grain, Pack, PackedFetch, Part, Piece};

use super::packs::{ask, noise, packs, request};
use super::*;

/// More than is read at a time.
const SIZE: usize = 20 << 20;

fn part(catalog_id: CatalogId, place: u32, stretches: &[(usize, usize)], grain: Option<Grain>) -> PackedFetch {
    let stretches = stretches.iter().map(|(at, size)| (*at as u64, *size as u64)).collect();
    PackedFetch { part: Some(Part { stretches, grain }), ..request(catalog_id, None, [(place, None)]) }
}

/// Publishes one large content; returns it, the catalog of `n1`, and its place there.
async fn published(world: &World, server: &Arc<Server>) -> (Vec<u8>, CatalogId, u32) {
    let content = noise(1, SIZE);
    world.stage("modules/app/files/tree/large", &content);
    publish_all(server).await;
    let (held, catalog) = compiled(server, "n1").await;
    let place = catalog.contents().position(|(digest, _)| digest == Digest::of(&content)).unwrap();
    (content, held.catalog_id, u32::try_from(place).unwrap())
}

async fn pieces(server: &Server, asked: PackedFetch) -> Vec<Piece> {
    let packs = packs(server, "n1", asked).await;
    let mut told = 0;
    let decode = |(pack, bytes): (Pack, bytes::Bytes)| {
        assert_eq!((pack.encoding, pack.at, pack.base), (Encoding::Pieces, told, None));
        told += pack.size;
        Piece::decode(&bytes, pack.size).unwrap()
    };
    packs.into_iter().flat_map(decode).collect()
}

#[tokio::test]
async fn a_content_is_cut_as_everybody_cuts_it() {
    let world = World::new();
    let server = world.open();
    let (content, catalog_id, place) = published(&world, &server).await;
    let whole = part(catalog_id, place, &[(0, SIZE)], Some(Grain::Coarse));
    // The second time it is known.
    for _ in 0..2 {
        assert!(pieces(&server, whole.clone()).await == Grain::Coarse.cut(&content, true));
    }
    // Stretches are cut each by itself: far longer than is read at a time, and many short ones.
    let short = (0..300).map(|number| (12 << 20) + number * 3_000).map(|at| (at, 2_999));
    let stretches: Vec<(usize, usize)> = [(1, 9 << 20)].into_iter().chain(short).collect();
    let expected: Vec<Piece> = stretches.iter().flat_map(|&(at, size)| Grain::Fine.cut(&content[at..at + size], true)).collect();
    assert!(pieces(&server, part(catalog_id, place, &stretches, Some(Grain::Fine))).await == expected);
    // And their bytes, many together.
    let packs = packs(&server, "n1", part(catalog_id, place, &stretches, None)).await;
    assert!(packs.len() < 25, "{}", packs.len());
    let bytes: Vec<u8> = packs.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    assert!(bytes == stretches.iter().flat_map(|&(at, size)| content[at..at + size].to_vec()).collect::<Vec<_>>());
    // Nobody else hears of it.
    assert!(ask(&server, "n2", whole).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_damaged_content_is_not_cut_to_its_end_and_is_gone_then() {
    let world = World::new();
    let server = world.open();
    let (content, catalog_id, place) = published(&world, &server).await;
    let path = server.store.path_of(&Digest::of(&content));
    let mut damaged = content;
    damaged[SIZE / 2] ^= 1;
    fs::write(path, damaged).unwrap();
    let whole = part(catalog_id, place, &[(0, SIZE)], Some(Grain::Coarse));
    let items = ask(&server, "n1", whole.clone()).await.unwrap();
    assert!(items.last().unwrap().as_ref().is_err_and(|error| error.to_string().contains("damaged")), "{items:?}");
    let items = ask(&server, "n1", whole).await.unwrap();
    assert!(matches!(&items[..], [Ok(FetchItem::Missing(_))]), "{items:?}");
}

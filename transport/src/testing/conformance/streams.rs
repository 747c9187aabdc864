//! Contents: in order, no faster than they are taken, and no longer than they are wanted.

use super::messages::{check_in, fetch};
use super::site::{self, Asked, byte_at, call};
use super::{AHEAD_BYTES, LARGE_BYTES, Subject};
use crate::client::{Client, FetchStream};
use crate::error::TransportError;
use crate::protocol::frame::FetchEvent;
use crate::protocol::limits::MAX_PACK_BYTES;
use crate::protocol::{CatalogId, CatalogReply, Digest, Fetch, Pack, PackedFetch, Span};

/// How many calls are made while a response waits to be read: time enough for a producer that nobody holds back to make a
/// large content many times over.
const CALLS_MEANWHILE: u32 = 500;

/// What was in a reply to a fetch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// The contents: size and offset.
    pub(super) contents: Vec<(u64, u64)>,
    /// The packs, which are among the contents too.
    pub(super) packs: Vec<Pack>,
    /// Bytes of contents that came.
    pub(super) bytes: u64,
    /// What the server does not have.
    pub(super) missing: Vec<Digest>,
}

/// Reads a reply to its end and checks every byte of its contents.
pub(super) async fn read_all(mut stream: FetchStream) -> Result<Read, TransportError> {
    let mut read = Read::default();
    let mut position = 0;
    let mut is_ended = false;
    while let Some(event) = stream.next().await? {
        match event {
            FetchEvent::Blob { size, offset, .. } => {
                read.contents.push((size, offset));
                position = offset;
            }
            FetchEvent::Pack(pack) => {
                read.packs.push(pack);
                read.contents.push((pack.length, 0));
                position = 0;
            }
            FetchEvent::Data(data) => {
                let is_right = data.iter().zip(position..).all(|(byte, at)| *byte == byte_at(at));
                assert!(is_right, "a chunk at {position} is not what was sent");
                position += data.len() as u64;
                read.bytes += data.len() as u64;
            }
            FetchEvent::BlobEnd => assert_eq!(Some(position), read.contents.last().map(|(size, _)| *size)),
            FetchEvent::Missing(digest) => read.missing.push(digest),
            FetchEvent::End => is_ended = true,
        }
    }
    assert!(is_ended, "a clean end without an end record");
    Ok(read)
}

/// Reads a reply to its end; returns how many bytes of contents came.
pub(super) async fn read(stream: FetchStream) -> Result<u64, TransportError> {
    Ok(read_all(stream).await?.bytes)
}

/// Reads until at least `bytes` of contents have come; returns how many did.
async fn read_some(stream: &mut FetchStream, bytes: u64) -> u64 {
    let mut taken = 0;
    while taken < bytes {
        match stream.next().await.expect("no error so far") {
            Some(FetchEvent::Data(data)) => taken += data.len() as u64,
            Some(_) => {}
            None => panic!("the content ended after {taken} bytes"),
        }
    }
    taken
}

pub(super) async fn chunks_come_in_order_and_stream(subject: Subject<'_>) {
    let mut stream = Client::new(subject.transport).fetch(&fetch([Asked::Size(LARGE_BYTES)])).await.expect("a reply");
    let mut position = 0;
    while let Some(event) = stream.next().await.expect("a whole reply") {
        let FetchEvent::Data(data) = event else { continue };
        let is_right = data.iter().zip(position..).all(|(byte, at)| *byte == byte_at(at));
        assert!(is_right, "a chunk at {position} is not what was sent");
        position += data.len() as u64;
        let ahead = subject.site.produced() - position;
        assert!(ahead <= AHEAD_BYTES, "{ahead} bytes were held between producer and caller");
    }
    assert_eq!(position, LARGE_BYTES);
}

pub(super) async fn a_caller_that_waits_holds_the_producer_back(subject: Subject<'_>) {
    let client = Client::new(subject.transport);
    let mut stream = client.fetch(&fetch([Asked::Size(LARGE_BYTES)])).await.expect("a reply");
    let taken = read_some(&mut stream, 1 << 20).await;
    for _ in 0..CALLS_MEANWHILE {
        assert_eq!(client.check_in(&check_in("")).await.expect("other calls go on"), CatalogReply::FactsNeeded);
    }
    let ahead = subject.site.produced() - taken;
    assert!(ahead <= AHEAD_BYTES, "{ahead} bytes were made ahead of a caller that takes nothing");
    // The pause did no harm.
    assert_eq!(taken + read_some(&mut stream, LARGE_BYTES - taken).await, LARGE_BYTES);
}

pub(super) async fn dropping_a_response_stops_the_producer(subject: Subject<'_>) {
    let client = Client::new(subject.transport);
    // Once while the producer has more than enough, once while it has nothing.
    for asked in [Asked::Size(LARGE_BYTES), Asked::Stops] {
        let mut stream = client.fetch(&fetch([asked])).await.expect("a reply");
        read_some(&mut stream, 500_000).await;
        drop(stream);
        subject.site.stopped().await;
        assert!(subject.site.produced() < LARGE_BYTES, "all of it was made");
        subject.site.forget();
        assert_eq!(client.check_in(&check_in("")).await.expect("other calls go on"), CatalogReply::FactsNeeded);
    }
}

pub(super) async fn dropping_a_call_stops_the_handler(subject: Subject<'_>) {
    let client = Client::new(subject.transport);
    let request = check_in(call::HANG);
    tokio::select! {
        reply = client.check_in(&request) => panic!("an answer from nowhere: {reply:?}"),
        () = subject.site.entered() => {}
    }
    subject.site.stopped().await;
    assert_eq!(client.check_in(&check_in("")).await.expect("other calls go on"), CatalogReply::FactsNeeded);
}

pub(super) async fn missing_contents_are_named(subject: Subject<'_>) {
    let (gone, lost) = (Digest::of(b"gone"), Digest::of(b"lost"));
    let digests = vec![gone, Asked::Size(5_000).digest(), lost, Asked::Size(1).digest()];
    let request = Fetch { digests, ..fetch([]) };
    let reply = Client::new(subject.transport).fetch(&request).await.expect("a reply");
    let read = read_all(reply).await.expect("a whole reply");
    let contents = vec![(5_000, 0), (1, 0)];
    assert_eq!(read, Read { contents, bytes: 5_001, missing: vec![gone, lost], packs: Vec::new() });
}

pub(super) async fn offsets_pass_through(subject: Subject<'_>) {
    let mut request = fetch([Asked::Size(5_000), Asked::Size(1 << 20), Asked::Size(300_000)]);
    request.offsets = [(Asked::Size(5_000).digest(), 5_000), (Asked::Size(1 << 20).digest(), 1_000_001)].into();
    let reply = Client::new(subject.transport).fetch(&request).await.expect("a reply");
    let read = read_all(reply).await.expect("a whole reply");
    assert_eq!(read.contents, [(5_000, 5_000), (1 << 20, 1_000_001), (300_000, 0)]);
    assert_eq!(read.bytes, (1 << 20) - 1_000_001 + 300_000);
}

pub(super) async fn empty_contents_are_contents(subject: Subject<'_>) {
    let client = Client::new(subject.transport);
    let reply = client.fetch(&fetch([])).await.expect("a reply");
    assert_eq!(read_all(reply).await.expect("a whole reply"), Read::default());
    let reply = client.fetch(&fetch([Asked::Size(0), Asked::Size(1), Asked::Size(0)])).await.expect("a reply");
    assert_eq!(read_all(reply).await.expect("a whole reply").contents, [(0, 0), (1, 0), (0, 0)]);
}

pub(super) async fn packs_pass_through(subject: Subject<'_>) {
    let client = Client::new(subject.transport);
    // One byte, several frames of every transport, as much as a pack may have; beside contents that are asked for by digest.
    let span = |place: u64, base| Span { first: u32::try_from(place).expect("it fits"), count: 1, base };
    let spans = vec![span(1, Some(7)), span(300_000, None), span(MAX_PACK_BYTES - 1, Some(0)), span(0, None)];
    let catalog_id = CatalogId::of(b"");
    let packed =
        PackedFetch { catalog_id, base_catalog_id: Some(catalog_id), encodings: vec!["zstd".to_owned()], spans, part: None };
    let request = Fetch { packed: Some(packed.clone()), ..fetch([Asked::Size(5_000)]) };
    let read = read_all(client.fetch(&request).await.expect("a reply")).await.expect("a whole reply");
    assert_eq!(read.packs, site::packs(&packed), "packs arrived changed");
    assert_eq!(read.contents, [(5_000, 0), (1, 0), (300_000, 0), (MAX_PACK_BYTES - 1, 0), (0, 0)]);
    assert_eq!(read.bytes, 5_000 + 1 + 300_000 + MAX_PACK_BYTES - 1);
}

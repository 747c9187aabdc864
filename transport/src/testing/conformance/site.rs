//! The handler behind every transport under test.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::{Barrier, Notify};

use crate::handler::{Content, FetchItem, FetchItems, Handler, Peer};
use crate::protocol::{
    CatalogId, CatalogReply, CheckIn, CodeId, Digest, Encoding, Fetch, Pack, PackBase, PackedFetch, Refusal, RefusalCode, Report,
    ReportAccepted, SubmitFacts, VersionCounter, codec,
};

/// Length of the chunks of a content, in bytes; not a divisor of any frame or window.
pub(super) const CHUNK_BYTES: u64 = 50_000;

/// How many fetches of a node named `meet` wait for each other.
pub(super) const MEETING: usize = 50;

/// What a content's digest asks the handler for, as the text that is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A content of this length.
    Size(u64),
    /// A content that breaks off after 1,000,000 of 2,000,000 bytes.
    Breaks,
    /// A content that never goes on after 1,000,000 of 2,000,000 bytes.
    Stops,
    /// An error in place of a content.
    Fails,
}

/// All that can be asked for.
const ASKED: [Asked; 9] = [
    Asked::Size(0),
    Asked::Size(1),
    Asked::Size(300_000),
    Asked::Size(5_000),
    Asked::Size(1 << 20),
    Asked::Size(super::LARGE_BYTES),
    Asked::Breaks,
    Asked::Stops,
    Asked::Fails,
];

impl Asked {
    pub(super) fn digest(self) -> Digest {
        Digest::of(format!("{self:?}").as_bytes())
    }

    const fn size(self) -> u64 {
        match self {
            Self::Size(size) => size,
            Self::Breaks | Self::Stops | Self::Fails => 2_000_000,
        }
    }
}

/// Returns the byte at `position` of every content: neither a moved nor a repeated chunk goes unseen.
pub(super) const fn byte_at(position: u64) -> u8 {
    (position / CHUNK_BYTES * 31 + position % 251).to_le_bytes()[0]
}

/// A feature in a check-in that asks for an answer other than the usual one.
pub(super) mod call {
    /// A catalog of 1 MiB.
    pub(crate) const LARGE: &str = "large";
    /// No answer at all.
    pub(crate) const HANG: &str = "hang";
    /// A refusal with a time.
    pub(crate) const BUSY: &str = "busy";
}

/// Answers as the request asks; clones share what they saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Site(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    produced: AtomicU64,
    stopped: Flag,
    entered: Flag,
    meeting: Barrier,
}

impl Default for Seen {
    fn default() -> Self {
        Self { produced: AtomicU64::new(0), stopped: Flag::default(), entered: Flag::default(), meeting: Barrier::new(MEETING) }
    }
}

/// Something that happens once, and can be waited for.
#[derive(Debug, Default)]
struct Flag(AtomicBool, Notify);

impl Flag {
    fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.notify_waiters();
    }

    async fn wait(&self) {
        loop {
            let notified = self.1.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.0.load(Ordering::SeqCst) {
                return;
            }
            notified.await;
        }
    }
}

/// Tells when it is dropped: a producer, or a handler's work, was given up or came to its end.
struct Work(Site);

impl Drop for Work {
    fn drop(&mut self) {
        self.0.0.stopped.set();
    }
}

impl Site {
    /// Returns how many bytes of contents have been made.
    pub(super) fn produced(&self) -> u64 {
        self.0.produced.load(Ordering::SeqCst)
    }

    /// Waits until a producer, or work that hangs, has been dropped.
    pub(super) async fn stopped(&self) {
        self.0.stopped.wait().await;
    }

    /// Forgets that something was dropped.
    pub(super) fn forget(&self) {
        self.0.stopped.0.store(false, Ordering::SeqCst);
    }

    /// Waits until work that hangs has begun.
    pub(super) async fn entered(&self) {
        self.0.entered.wait().await;
    }

    fn content(&self, asked: Asked, offset: u64) -> Content {
        let work = Work(self.clone());
        let body = stream::unfold((work, offset), move |(work, position)| async move {
            let half = asked.size() / 2;
            if position >= half && asked == Asked::Breaks {
                return Some((Err(io::Error::other("the disk is gone")), (work, position)));
            }
            if position >= half && asked == Asked::Stops {
                std::future::pending::<()>().await;
            }
            if position == asked.size() {
                return None;
            }
            let end = (position + CHUNK_BYTES).min(asked.size());
            let chunk: Bytes = (position..end).map(byte_at).collect();
            work.0.0.produced.fetch_add(end - position, Ordering::SeqCst);
            // A producer of real contents waits for its disk; one that never waits would hide a transport that runs ahead.
            tokio::task::yield_now().await;
            Some((Ok(chunk), (work, end)))
        });
        Content { digest: asked.digest(), size: asked.size(), offset, body: body.boxed() }
    }
}

#[async_trait]
impl Handler for Site {
    async fn check_in(&self, _: &Peer, request: CheckIn) -> Result<CatalogReply, Refusal> {
        match request.features.first().map(String::as_str) {
            Some(call::LARGE) => Ok(catalog(vec![7; 1 << 20].into())),
            Some(call::BUSY) => Err(Refusal { retry_after_seconds: Some(17), ..Refusal::new(RefusalCode::Busy, "come again") }),
            Some(call::HANG) => {
                let _work = Work(self.clone());
                self.0.entered.set();
                std::future::pending().await
            }
            _ => Ok(CatalogReply::FactsNeeded),
        }
    }

    /// Answers a catalog that is the encoded facts.
    async fn submit_facts(&self, _: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal> {
        let facts = codec::encode(&request.facts).map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))?;
        Ok(catalog(facts.into()))
    }

    /// Fetches by a node named `meet` wait for each other.
    async fn fetch(&self, _: &Peer, request: Fetch) -> Result<FetchItems, Refusal> {
        if request.certname.as_str() == "meet" {
            self.0.meeting.wait().await;
        }
        let site = self.clone();
        let items =
            stream::iter(request.digests).map(move |digest| match ASKED.into_iter().find(|asked| asked.digest() == digest) {
                Some(Asked::Fails) => Err(io::Error::other("the store is gone")),
                Some(asked) => {
                    Ok(FetchItem::Content(site.content(asked, request.offsets.get(&digest).copied().unwrap_or_default())))
                }
                None => Ok(FetchItem::Missing(digest)),
            });
        let packs = request.packed.iter().flat_map(packs).collect::<Vec<_>>();
        let packs = packs.into_iter().map(|pack| Ok(FetchItem::Pack(pack, (0..pack.length).map(byte_at).collect())));
        Ok(items.chain(stream::iter(packs)).boxed())
    }

    /// Answers with what the report says of `noop`.
    async fn report(&self, _: &Peer, report: Report) -> Result<ReportAccepted, Refusal> {
        Ok(ReportAccepted { duplicate: report.noop })
    }
}

/// Returns the packs that answer a request: as long as the place that is asked for says.
pub(super) fn packs(request: &PackedFetch) -> Vec<Pack> {
    let pack = |(first, (length, base)): (u32, (u64, Option<u64>))| Pack {
        first,
        count: 1,
        at: 0,
        size: length + 1,
        length,
        encoding: Encoding::Zstd,
        base: base.map(|size| PackBase { at: 0, size }),
    };
    (0..).zip(request.places()).map(pack).collect()
}

fn catalog(catalog: Bytes) -> CatalogReply {
    let version = VersionCounter { epoch: 1, sequence: 7 };
    CatalogReply::Catalog { catalog_id: CatalogId::of(&catalog), code_id: code_id(), version, unconfirmed_seconds: None, catalog }
}

fn code_id() -> CodeId {
    let text = format!("blake3:{}", "12".repeat(32));
    text.parse().unwrap_or_else(|_| unreachable!("a valid code id"))
}

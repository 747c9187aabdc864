//! The server half of a call: a typed [`Handler`], and [`dispatch`] from bytes to it.

use std::fmt::Debug;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::coalesce::coalesce;
use crate::error::{TransportError, TransportErrorKind};
use crate::extensions::Extensions;
use crate::protocol::frame::{FetchHeader, encode_header};
use crate::protocol::{
    CatalogReply, Certname, CheckIn, Digest, Fetch, Operation, Pack, ProtocolVersion, Refusal, RefusalCode, Report,
    ReportAccepted, SubmitFacts, SyncConfirm, SyncConfirmed, SyncEpoch, SyncEpochReply, SyncManifest, SyncManifestReply, codec,
};
use crate::transport::{Request, Response, Status};

/// Who is at the other end, as the transport has authenticated it. Never made from a message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// A TLS client whose certificate was verified.
    Certificate {
        /// Its common name.
        name: Certname,
        /// What else Puppet's authority has signed of it.
        extensions: Extensions,
    },
    /// A TLS client that showed no certificate: it may ask how to get one, and nothing else.
    Anonymous,
    /// A local process on a Unix socket, as the kernel tells it.
    Process {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
        /// Its process id.
        pid: i32,
    },
    /// A plain connection, accepted because the administrator opened one (loopback unless told otherwise).
    Plain,
    /// The same process.
    InProcess,
}

impl Peer {
    /// Returns a client with a certificate of this name, which has no extensions.
    #[must_use]
    pub fn certificate(name: Certname) -> Self {
        Self::Certificate { name, extensions: Extensions::default() }
    }

    /// Returns what the certificate says beside the name; nothing where there is none.
    #[must_use]
    pub fn extensions(&self) -> Extensions {
        match self {
            Self::Certificate { extensions, .. } => extensions.clone(),
            _ => Extensions::default(),
        }
    }

    /// Returns the digest of what the certificate says; `None` where there is no certificate, which says nothing either way.
    #[must_use]
    pub fn extensions_digest(&self) -> Option<Digest> {
        match self {
            Self::Certificate { extensions, .. } => Some(extensions.digest()),
            _ => None,
        }
    }
}

/// A content on its way out.
pub struct Content {
    /// Its digest.
    pub digest: Digest,
    /// Its whole length in bytes.
    pub size: u64,
    /// How many bytes are left out at the front.
    pub offset: u64,
    /// Exactly `size - offset` bytes; an `Err` breaks the response off.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("digest", &self.digest).field("size", &self.size).finish_non_exhaustive()
    }
}

/// One answer within a fetch.
#[derive(Debug)]
pub enum FetchItem {
    /// The content.
    Content(Content),
    /// Contents, or a part of one, packed; exactly `length` bytes.
    Pack(Pack, Bytes),
    /// It is not there, or not for this node.
    Missing(Digest),
}

/// The answers to a fetch, in any order; an `Err` breaks the response off.
pub type FetchItems = BoxStream<'static, io::Result<FetchItem>>;

/// The server half of the protocol, typed. A refusal is an ordinary answer.
///
/// # Obligations
///
/// * Only `peer` says who asks; a `certname` in a message that the peer may not act for is refused as `Forbidden`.
/// * `fetch` answers each digest once, with content only if a catalog of that node names it.
/// * It answers `packed` in whole, each content once, or not at all, when it does not know how or has not the catalog; with packs only
///   from catalogs of that node, both what is wanted and what it is compared with.
///
/// # Cancel safety
///
/// Each method may be dropped at any await point, when the peer goes away; what was begun is finished or left undone.
#[async_trait]
pub trait Handler: Debug + Send + Sync + 'static {
    /// Says whether the agent's catalog is current, or gives another.
    async fn check_in(&self, peer: &Peer, request: CheckIn) -> Result<CatalogReply, Refusal>;

    /// Takes facts and goes on with the check-in inside.
    async fn submit_facts(&self, peer: &Peer, request: SubmitFacts) -> Result<CatalogReply, Refusal>;

    /// Streams contents.
    async fn fetch(&self, peer: &Peer, request: Fetch) -> Result<FetchItems, Refusal>;

    /// Takes a report.
    async fn report(&self, peer: &Peer, report: Report) -> Result<ReportAccepted, Refusal>;

    /// Says to a replica which code is live. A handler that is no primary refuses.
    async fn sync_confirm(&self, _peer: &Peer, _request: SyncConfirm) -> Result<SyncConfirmed, Refusal> {
        Err(no_primary())
    }

    /// Hears which epoch another server knows, and says which is known here. A handler that is no server for others refuses.
    async fn sync_epoch(&self, _peer: &Peer, _request: SyncEpoch) -> Result<SyncEpochReply, Refusal> {
        Err(no_primary())
    }

    /// Says to a replica what is in a version. A handler that is no primary refuses.
    async fn sync_manifest(&self, _peer: &Peer, _request: SyncManifest) -> Result<SyncManifestReply, Refusal> {
        Err(no_primary())
    }

    /// Streams contents of published code to a replica. A handler that is no primary refuses.
    async fn sync_fetch(&self, _peer: &Peer, _request: Fetch) -> Result<FetchItems, Refusal> {
        Err(no_primary())
    }
}

fn no_primary() -> Refusal {
    Refusal::new(RefusalCode::NotFound, "this server has no code for replicas")
}

/// Decodes a request, lets `handler` answer it, and encodes the answer: the one way from bytes to a handler.
///
/// Never fails: what cannot be decoded is refused as `BadRequest`, what cannot be encoded as `Internal`.
pub async fn dispatch<H: Handler + ?Sized>(handler: &H, peer: &Peer, request: Request) -> Response {
    // The request's bytes are gone before the handler is asked: it may hold the answer for minutes.
    let Request { operation, body } = request;
    let answer = match operation {
        Operation::CheckIn => {
            let message = |message: CheckIn| speaks(message.protocol, message);
            let asked = decode(operation, body).and_then(message).map(|message| handler.check_in(peer, message));
            given(asked).await.and_then(|reply| encode(&reply))
        }
        Operation::SubmitFacts => {
            let message = |message: SubmitFacts| speaks(message.check_in.protocol, message);
            let asked = decode(operation, body).and_then(message).map(|message| handler.submit_facts(peer, message));
            given(asked).await.and_then(|reply| encode(&reply))
        }
        Operation::Fetch => {
            let asked = decode(operation, body).map(|message| handler.fetch(peer, message));
            given(asked).await.map(encode_items)
        }
        Operation::Report => {
            let asked = decode(operation, body).map(|message| handler.report(peer, message));
            given(asked).await.and_then(|reply| encode(&reply))
        }
        Operation::SyncConfirm => {
            let message = |message: SyncConfirm| speaks(message.protocol, message);
            let asked = decode(operation, body).and_then(message).map(|message| handler.sync_confirm(peer, message));
            given(asked).await.and_then(|reply| encode(&reply))
        }
        Operation::SyncEpoch => {
            let message = |message: SyncEpoch| speaks(message.protocol, message);
            let asked = decode(operation, body).and_then(message).map(|message| handler.sync_epoch(peer, message));
            given(asked).await.and_then(|reply| encode(&reply))
        }
        Operation::SyncManifest => {
            let asked = decode(operation, body).map(|message| handler.sync_manifest(peer, message));
            given(asked).await.and_then(|reply| encode(&reply))
        }
        Operation::SyncFetch => {
            let asked = decode(operation, body).map(|message| handler.sync_fetch(peer, message));
            given(asked).await.map(encode_items)
        }
    };
    answer.unwrap_or_else(|refusal| refused(&refusal))
}

/// Waits for what a handler was asked; its message is the handler's own by then, and no room is held for it here.
async fn given<R>(asked: Result<BoxFuture<'_, Result<R, Refusal>>, Refusal>) -> Result<R, Refusal> {
    asked?.await
}

/// Returns the response that carries a refusal; for listeners that must refuse before there is a request.
#[must_use]
pub fn refused(refusal: &Refusal) -> Response {
    // A refusal is two strings and a number; if it ever could not be encoded, an empty body is refused all the same.
    let body = codec::encode(refusal).unwrap_or_default();
    let retry_after = refusal.retry_after_seconds.map(|seconds| Duration::from_secs(u64::from(seconds)));
    Response { retry_after, ..Response::whole(Status::Refused, body.into()) }
}

fn speaks<T>(protocol: ProtocolVersion, message: T) -> Result<T, Refusal> {
    if protocol.is_supported() {
        return Ok(message);
    }
    let (theirs, ours) = (protocol.0, ProtocolVersion::CURRENT.0);
    let message = format!("peer speaks protocol {theirs}, this server speaks {ours}: update the older of the two");
    Err(Refusal::new(RefusalCode::UnsupportedVersion, message))
}

/// What stands in the same place in every version of the protocol.
#[derive(Deserialize)]
struct Spoken {
    protocol: Option<ProtocolVersion>,
    check_in: Option<SpokenInside>,
}

#[derive(Deserialize)]
struct SpokenInside {
    protocol: ProtocolVersion,
}

/// Refuses a message that cannot be read for its version, where that is another: nothing else is known of its form.
fn speaks_at_all(operation: Operation, body: &Bytes) -> Result<(), Refusal> {
    let Ok(spoken) = codec::decode::<Spoken>(body, operation.max_request_bytes()) else { return Ok(()) };
    let protocol = spoken.protocol.or(spoken.check_in.map(|inside| inside.protocol));
    protocol.map_or(Ok(()), |protocol| speaks(protocol, ()))
}

#[expect(clippy::needless_pass_by_value, reason = "so that nobody keeps it")]
fn decode<T: DeserializeOwned>(operation: Operation, body: Bytes) -> Result<T, Refusal> {
    codec::decode(&body, operation.max_request_bytes()).map_err(|error| {
        if let Err(refusal) = speaks_at_all(operation, &body) {
            return refusal;
        }
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Refusal::new(RefusalCode::BadRequest, format!("{operation} request: {error}{cause}"))
    })
}

fn encode<T: Serialize>(message: &T) -> Result<Response, Refusal> {
    let body = codec::encode(message).map_err(|error| Refusal::new(RefusalCode::Internal, error.to_string()))?;
    Ok(Response::whole(Status::Accepted, body.into()))
}

fn encode_items(items: FetchItems) -> Response {
    let header = |header: FetchHeader| encode_header(&header).map_err(io::Error::other);
    let end = stream::once(async { Ok(None) });
    let body = items.map_ok(Some).chain(end).scan(0_u64, move |blobs, item| {
        let part: BoxStream<'static, io::Result<Bytes>> = match item {
            Ok(Some(FetchItem::Content(content))) => {
                *blobs += 1;
                let head = FetchHeader::Blob { digest: content.digest, size: content.size, offset: content.offset };
                stream::iter([header(head)]).chain(content.body).boxed()
            }
            Ok(Some(FetchItem::Pack(pack, bytes))) => {
                *blobs += 1;
                stream::iter([header(FetchHeader::Pack(pack)), Ok(bytes)]).boxed()
            }
            Ok(Some(FetchItem::Missing(digest))) => stream::iter([header(FetchHeader::Missing { digest })]).boxed(),
            Ok(None) => stream::iter([header(FetchHeader::End { blobs: *blobs })]).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        };
        futures::future::ready(Some(part))
    });
    let body = body.flatten().map_err(|error| match error.downcast::<TransportError>() {
        // The handler asks another server itself.
        Ok(error) => error,
        Err(error) => TransportError::new(TransportErrorKind::Closed, "the server's store")
            .with_detail("a content could not be read to its end")
            .with_source(error),
    });
    // What follows an error would make a broken stream look whole.
    let body = body.scan(false, |broken, chunk| {
        let item = (!*broken).then_some(chunk);
        *broken = matches!(item, Some(Err(_))) || *broken;
        futures::future::ready(item)
    });
    Response { status: Status::Accepted, retry_after: None, length: None, body: coalesce(body.boxed()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_message_of_another_version_is_refused_for_that_whatever_its_form() {
        fn code<T: DeserializeOwned>(operation: Operation, message: &impl Serialize) -> Option<RefusalCode> {
            decode::<T>(operation, codec::encode(message).unwrap().into()).err().map(|refusal| refusal.code)
        }
        let other = RefusalCode::UnsupportedVersion;
        for (version, expected) in [(ProtocolVersion::CURRENT.0, RefusalCode::BadRequest), (2, other), (0, other)] {
            let message = BTreeMap::from([("protocol", version), ("what", 7)]);
            assert_eq!(code::<CheckIn>(Operation::CheckIn, &message), Some(expected));
            assert_eq!(code::<SyncConfirm>(Operation::SyncConfirm, &message), Some(expected));
            assert_eq!(code::<SyncEpoch>(Operation::SyncEpoch, &message), Some(expected));
            assert_eq!(code::<SubmitFacts>(Operation::SubmitFacts, &BTreeMap::from([("check_in", message)])), Some(expected));
        }
        assert_eq!(code::<CheckIn>(Operation::CheckIn, &BTreeMap::from([("what", 7)])), Some(RefusalCode::BadRequest));
        assert_eq!(code::<CheckIn>(Operation::CheckIn, &"protocol"), Some(RefusalCode::BadRequest));
    }
}

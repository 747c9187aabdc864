//! Typed calls over any transport.

use std::fmt::Debug;

use bytes::Bytes;
use futures::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{TransportError, TransportErrorKind};
use crate::protocol::codec::{self, CodecError};
use crate::protocol::frame::{FetchDecoder, FetchEvent};
use crate::protocol::limits::{MAX_CATALOG_BYTES, MAX_MANIFEST_BYTES, MAX_SMALL_MESSAGE_BYTES, MAX_SYNC_CONFIRM_BYTES};
use crate::protocol::{
    CatalogReply, CheckIn, Fetch, Operation, Refusal, Report, ReportAccepted, SubmitFacts, SyncConfirm, SyncConfirmed, SyncEpoch,
    SyncEpochReply, SyncManifest, SyncManifestReply,
};
use crate::transport::{BodyStream, Request, Response, Status, Transport};

/// Why a typed call has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The two ends did not come together.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The server said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A request could not be encoded.
    #[error("{operation} request could not be encoded")]
    Encode {
        /// What was asked.
        operation: Operation,
        /// Why.
        #[source]
        source: CodecError,
    },
}

impl CallError {
    /// Returns whether the same call may succeed later without anybody's doing.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport(error) => error.kind().is_retryable(),
            Self::Refused(refusal) => refusal.code.is_retryable(),
            Self::Encode { .. } => false,
        }
    }
}

/// Holds every typed method, so that no transport can get a typed call wrong.
#[derive(Debug, Clone)]
pub struct Client<T> {
    transport: T,
}

impl<T: Transport> Client<T> {
    /// Returns a client over `transport`.
    pub const fn new(transport: T) -> Self {
        Self { transport }
    }

    /// Returns the transport.
    pub const fn transport(&self) -> &T {
        &self.transport
    }

    /// Says which catalog this node holds, and hears whether it is current.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    ///
    /// # Cancel safety
    ///
    /// Safe: asking again does no harm.
    pub async fn check_in(&self, request: &CheckIn) -> Result<CatalogReply, CallError> {
        self.small(Operation::CheckIn, request, MAX_CATALOG_BYTES).await
    }

    /// Sends facts, because the check-in asked for them.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    ///
    /// # Cancel safety
    ///
    /// Safe: asking again does no harm.
    pub async fn submit_facts(&self, request: &SubmitFacts) -> Result<CatalogReply, CallError> {
        self.small(Operation::SubmitFacts, request, MAX_CATALOG_BYTES).await
    }

    /// Sends a report.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    ///
    /// # Cancel safety
    ///
    /// The report may or may not have been taken; the server keeps a report once however often it comes.
    pub async fn report(&self, report: &Report) -> Result<ReportAccepted, CallError> {
        self.small(Operation::Report, report, MAX_SMALL_MESSAGE_BYTES).await
    }

    /// Asks for contents and returns them as a stream of events; nothing in it is verified.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    ///
    /// # Cancel safety
    ///
    /// Safe: dropping the stream gives the rest up.
    pub async fn fetch(&self, request: &Fetch) -> Result<FetchStream, CallError> {
        self.stream(Operation::Fetch, request).await
    }

    /// As a replica: asks which code is live.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    ///
    /// # Cancel safety
    ///
    /// Safe: asking again does no harm.
    pub async fn sync_confirm(&self, request: &SyncConfirm) -> Result<SyncConfirmed, CallError> {
        self.small(Operation::SyncConfirm, request, MAX_SYNC_CONFIRM_BYTES).await
    }

    /// Tells another server which epoch is known here, and hears which is known there.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    ///
    /// # Cancel safety
    ///
    /// The other server may or may not have heard it; telling it again does no harm.
    pub async fn sync_epoch(&self, request: &SyncEpoch) -> Result<SyncEpochReply, CallError> {
        self.small(Operation::SyncEpoch, request, MAX_SYNC_CONFIRM_BYTES).await
    }

    /// As a replica: asks what is in a version; nothing in the answer is verified.
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    ///
    /// # Cancel safety
    ///
    /// Safe: asking again does no harm.
    pub async fn sync_manifest(&self, request: &SyncManifest) -> Result<SyncManifestReply, CallError> {
        self.small(Operation::SyncManifest, request, MAX_MANIFEST_BYTES).await
    }

    /// As a replica: asks for contents of published code, as [`Client::fetch`].
    ///
    /// # Errors
    ///
    /// See [`CallError`].
    ///
    /// # Cancel safety
    ///
    /// Safe: dropping the stream gives the rest up.
    pub async fn sync_fetch(&self, request: &Fetch) -> Result<FetchStream, CallError> {
        self.stream(Operation::SyncFetch, request).await
    }

    async fn stream(&self, operation: Operation, request: &Fetch) -> Result<FetchStream, CallError> {
        let response = self.accepted(operation, request).await?;
        Ok(FetchStream {
            endpoint: self.transport.endpoint().to_owned(),
            body: response.body,
            decoder: FetchDecoder::new(),
            ended: false,
            bytes_received: 0,
        })
    }

    async fn small<R: DeserializeOwned>(
        &self,
        operation: Operation,
        message: &(impl Serialize + Sync),
        limit: u64,
    ) -> Result<R, CallError> {
        let response = self.accepted(operation, message).await?;
        let body = response.into_bytes(limit, self.transport.endpoint()).await?;
        Ok(self.decode(operation, &body, limit)?)
    }

    async fn accepted(&self, operation: Operation, message: &(impl Serialize + Sync)) -> Result<Response, CallError> {
        let body = codec::encode(message).map_err(|source| CallError::Encode { operation, source })?;
        let response = self.transport.call(Request { operation, body: body.into() }).await?;
        match response.status {
            Status::Accepted => Ok(response),
            Status::Refused => {
                let body = response.into_bytes(MAX_SMALL_MESSAGE_BYTES, self.transport.endpoint()).await?;
                Err(CallError::Refused(self.decode(operation, &body, MAX_SMALL_MESSAGE_BYTES)?))
            }
        }
    }

    fn decode<R: DeserializeOwned>(&self, operation: Operation, body: &Bytes, limit: u64) -> Result<R, TransportError> {
        codec::decode(body, limit).map_err(|error| {
            TransportError::new(TransportErrorKind::Protocol, self.transport.endpoint())
                .with_detail(format!("the answer to {operation} could not be read"))
                .with_source(error)
        })
    }
}

/// The answer to a fetch, event by event.
pub struct FetchStream {
    endpoint: String,
    body: BodyStream,
    decoder: FetchDecoder,
    ended: bool,
    bytes_received: u64,
}

impl Debug for FetchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchStream").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl FetchStream {
    /// Returns the next event; `None` after the end record and the end of the body.
    ///
    /// # Errors
    ///
    /// When the stream breaks off or makes no sense; nothing more comes after that.
    ///
    /// # Cancel safety
    ///
    /// Safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<FetchEvent>, TransportError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.decoder.next_event() {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(error) => return Err(self.fail(TransportErrorKind::Protocol, error)),
            }
            match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.bytes_received += chunk.len() as u64;
                    self.decoder.push(chunk);
                }
                Some(Err(error)) => {
                    self.ended = true;
                    return Err(error);
                }
                None => {
                    if let Err(error) = self.decoder.finish() {
                        return Err(self.fail(TransportErrorKind::Closed, error));
                    }
                    self.ended = true;
                }
            }
        }
    }

    /// Returns how many bytes of the body have come so far.
    #[must_use]
    pub const fn bytes_received(&self) -> u64 {
        self.bytes_received
    }

    fn fail(&mut self, kind: TransportErrorKind, source: crate::protocol::frame::FetchError) -> TransportError {
        self.ended = true;
        TransportError::new(kind, self.endpoint.as_str()).with_source(source)
    }
}

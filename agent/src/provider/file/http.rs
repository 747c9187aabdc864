//! Sources at web servers, `http://…` and `https://…`.
//!
//! Such a server is asked what there is (HEAD), and for the content when the file is to be changed. A file is compared as Puppet does it: by the
//! strongest checksum that the server tells, SHA-256, SHA-1 or MD5; else by when it says that the content was modified last. Where it tells
//! neither, the content is fetched and compared, and kept until the file is changed in the same run. With `checksum_value` nobody is asked while the file has that. A content that does not have the
//! checksum of its own answer is not used.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use direct_puppet_transport::http_source::shown_url;
use direct_puppet_transport::protocol::{Resource, ResourceRef, Value};
use direct_puppet_transport::{BodyStream, HttpAnswer, HttpMetadata, HttpSource, TransportError};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::checksum::{Checksum, ChecksumValue};
use super::parameters::Parameters;
use super::source::Content;
use super::source_uri::{self, SourceUri};
use super::{blocking, errors};
use crate::fs::{FsError, FsErrorKind};
use crate::provider::{Context, ProviderError};
use crate::store::Put;

/// How many pieces of a content may wait to be written.
const PIECES: usize = 8;

/// What is known of a source without its content.
#[derive(Debug, Clone)]
pub(super) enum Remote {
    /// Its checksum.
    Checksum(ChecksumValue),
    /// When it was modified last, in seconds since 1970 UTC.
    Modified(i64),
    /// Nothing: it was not asked for, as only attributes change.
    Unasked,
}

impl Remote {
    /// Returns the strongest that a server told; `None` when it told nothing.
    fn of(metadata: &HttpMetadata, checksum: Checksum) -> Option<Self> {
        let seconds = metadata.last_modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = seconds.and_then(|seconds| i64::try_from(seconds.as_secs()).ok()).map(Self::Modified);
        if checksum == Checksum::ModifiedTime && modified.is_some() {
            return modified;
        }
        told(metadata).map(Self::Checksum).or(modified)
    }

    /// Returns it as Puppet's messages have it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Checksum(value) => value.shown(),
            Self::Modified(seconds) => shown_time(*seconds),
            Self::Unasked => String::new(),
        }
    }
}

/// Returns the strongest checksum that a server told.
fn told(metadata: &HttpMetadata) -> Option<ChecksumValue> {
    let all = [("sha256", &metadata.sha256), ("sha1", &metadata.sha1), ("md5", &metadata.md5)];
    all.into_iter().find_map(|(kind, value)| ChecksumValue::of_header(kind, value.as_deref()?))
}

/// Returns a time as Puppet's messages have it.
pub(super) fn shown_time(seconds: i64) -> String {
    tz::UtcDateTime::from_timespec(seconds, 0).map_or_else(
        |_| format!("{{mtime}}{seconds}"),
        |time| {
            let (year, month, day) = (time.year(), time.month(), time.month_day());
            let (hour, minute, second) = (time.hour(), time.minute(), time.second());
            format!("{{mtime}}{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
        },
    )
}

/// What is needed of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Only that there is one.
    Nothing,
    /// What a comparison needs.
    Metadata,
    /// Its content, in the store.
    Content,
}

/// What a server said of one source.
#[derive(Debug)]
enum Told {
    Found(Content),
    Refused(u16),
    Failed(String),
}

/// What web servers said of the sources of one resource, by URL.
#[derive(Debug, Default)]
pub(super) struct RemoteSources(BTreeMap<String, Told>);

impl RemoteSources {
    /// Asks for the sources of a resource, up to the first that is there.
    ///
    /// # Errors
    ///
    /// When a content cannot be stored, or the run is cancelled. What servers refuse, and that they do not answer, is told by [`Self::content`].
    pub(super) async fn ask(
        client: Option<&dyn HttpSource>,
        context: &Context,
        resource: &ResourceRef,
        parameters: &Parameters,
        need: Need,
    ) -> Result<Self, ProviderError> {
        let mut all = Self::default();
        for source in &parameters.sources {
            let SourceUri::Http(url) = source else { continue };
            let told = match client {
                None => Told::Failed(
                    "this agent has nothing that asks web servers: give it one with AgentBuilder::http_source".to_owned(),
                ),
                Some(client) => {
                    let asking = Asking { client, context, resource, parameters };
                    tokio::select! {
                        told = asking.ask(url, need) => told?,
                        () = context.cancel().cancelled() => {
                            return Err(ProviderError::Cancelled { resource: resource.clone() });
                        }
                    }
                }
            };
            let goes_on = matches!(told, Told::Refused(_));
            all.0.insert(url.clone(), told);
            if !goes_on {
                break;
            }
        }
        Ok(all)
    }

    /// Returns the content of a source; `None` when its server does not have it.
    ///
    /// # Errors
    ///
    /// When the server could not be asked.
    pub(super) fn content(&self, url: &str) -> Result<Option<Content>, String> {
        match self.0.get(url) {
            Some(Told::Found(content)) => Ok(Some(content.clone())),
            Some(Told::Failed(reason)) => Err(reason.clone()),
            Some(Told::Refused(_)) | None => Ok(None),
        }
    }

    /// Removes contents that were fetched to compare them, and are not to be put anywhere. Blocking.
    pub(super) fn discard(&self, context: &Context) -> Result<(), FsError> {
        let compared = context.of_run::<Compared>();
        let mut compared = compared.lock().unwrap_or_else(PoisonError::into_inner);
        for url in self.0.keys() {
            if let Some(put) = compared.remove(url).filter(|put| put.is_new)
                && context.is_last_use(&put.digest)
            {
                context.store().remove(&put.digest)?;
            }
        }
        Ok(())
    }

    /// Returns what servers answered that have no source, if any was asked.
    pub(super) fn refusals(&self) -> Option<String> {
        let refused = self.0.iter().filter_map(|(url, told)| match told {
            Told::Refused(status) => Some(format!("{} answered {status}", shown_url(url))),
            _ => None,
        });
        let refused: Vec<String> = refused.collect();
        (!refused.is_empty()).then(|| refused.join(", "))
    }
}

/// Contents that were fetched in this run to compare them, by URL.
type Compared = Mutex<HashMap<String, Put>>;

/// Asks for one resource.
struct Asking<'a> {
    client: &'a dyn HttpSource,
    context: &'a Context,
    resource: &'a ResourceRef,
    parameters: &'a Parameters,
}

impl Asking<'_> {
    async fn ask(&self, url: &str, need: Need) -> Result<Told, ProviderError> {
        match (need, &self.parameters.checksum_value) {
            (Need::Nothing, _) => Ok(Told::Found(Content::Remote(Remote::Unasked))),
            (Need::Metadata, _) if self.is_left_alone().await? => Ok(Told::Found(Content::Remote(Remote::Unasked))),
            (Need::Metadata, Some(value)) => Ok(Told::Found(Content::Remote(Remote::Checksum(value.clone())))),
            (Need::Metadata, None) => self.metadata(url).await,
            (Need::Content, _) => match self.compared(url) {
                Some(content) => Ok(Told::Found(content)),
                None => self.fetch(url, false).await,
            },
        }
    }

    async fn metadata(&self, url: &str) -> Result<Told, ProviderError> {
        match self.client.metadata(url).await {
            Ok(HttpAnswer::Found(metadata)) => match Remote::of(&metadata, self.parameters.checksum) {
                Some(remote) => Ok(Told::Found(Content::Remote(remote))),
                None => self.fetch(url, true).await,
            },
            Ok(HttpAnswer::Refused(status)) => Ok(Told::Refused(status)),
            Err(error) => Ok(self.failed(url, &error)),
        }
    }

    /// Whether the file is there and its content is none of the resource's business.
    async fn is_left_alone(&self) -> Result<bool, ProviderError> {
        if self.parameters.replace {
            return Ok(false);
        }
        let (context, reference, path) = (self.context.clone(), self.resource.clone(), self.parameters.path.clone());
        blocking(self.resource.clone(), move || {
            let found = context.root().stat(&path).map_err(|error| errors::failed(&reference, "look at it", error))?;
            Ok(found.is_some())
        })
        .await
    }

    /// Returns the content that this run has fetched to compare it.
    fn compared(&self, url: &str) -> Option<Content> {
        let compared = self.context.of_run::<Compared>();
        let compared = compared.lock().unwrap_or_else(PoisonError::into_inner);
        compared.get(url).map(|put| Content::Stored { digest: put.digest, size: put.size })
    }

    async fn fetch(&self, url: &str, is_to_compare: bool) -> Result<Told, ProviderError> {
        let (metadata, body) = match self.client.content(url).await {
            Ok(HttpAnswer::Found(found)) => found,
            Ok(HttpAnswer::Refused(status)) => return Ok(Told::Refused(status)),
            Err(error) => return Ok(self.failed(url, &error)),
        };
        let put = match self.store(body).await? {
            Ok(put) => put,
            Err(error) => return Ok(self.failed(url, &error)),
        };
        let told = told(&metadata);
        let (context, reference) = (self.context.clone(), self.resource.clone());
        let (new, is_secret) = (put, self.parameters.sensitive);
        let verified =
            blocking(self.resource.clone(), move || verify(&context, &reference, &new, told.as_ref(), is_secret)).await?;
        Ok(match verified {
            Ok(()) => {
                if is_to_compare {
                    let compared = self.context.of_run::<Compared>();
                    compared.lock().unwrap_or_else(PoisonError::into_inner).insert(url.to_owned(), put);
                }
                Told::Found(Content::Stored { digest: put.digest, size: put.size })
            }
            Err(reason) => Told::Failed(format!("{}: {reason}", self.shown(url))),
        })
    }

    /// Writes a body to the store, as it comes.
    async fn store(&self, mut body: BodyStream) -> Result<Result<Put, TransportError>, ProviderError> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let (context, reference) = (self.context.clone(), self.resource.clone());
        let write = blocking(self.resource.clone(), move || {
            let mut pieces = Pieces { receiver, piece: Bytes::new(), is_whole: false };
            let put = context.store().put_reader(&mut pieces);
            put.map_err(|error| errors::failed(&reference, "store the content of its source", error))
        });
        let read = async {
            while let Some(piece) = body.next().await {
                // Nobody takes it when it cannot be written: that is told by the writer.
                if sender.send(Some(piece?)).await.is_err() {
                    break;
                }
            }
            let _told = sender.send(None).await;
            drop(sender);
            Ok::<_, TransportError>(())
        };
        let (written, read) = futures::future::join(write, read).await;
        match read {
            Ok(()) => written.map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    fn shown(&self, url: &str) -> String {
        if self.parameters.sensitive { "its source".to_owned() } else { shown_url(url) }
    }

    fn failed(&self, url: &str, error: &TransportError) -> Told {
        // The text of the error names the URL.
        let reason = if self.parameters.sensitive { "its server could not be asked".to_owned() } else { errors::chain(error) };
        Told::Failed(format!("could not get {}: {reason}", self.shown(url)))
    }
}

/// Checks a stored content by the checksum of its own answer, and says that it may be moved out of the store. Blocking.
fn verify(
    context: &Context,
    resource: &ResourceRef,
    put: &Put,
    told: Option<&ChecksumValue>,
    is_secret: bool,
) -> Result<Result<(), String>, ProviderError> {
    let fail = |error: FsError| errors::failed(resource, "read the content of its source", error);
    if let Some(value) = told
        && let Some(file) = context.store().open(&put.digest).map_err(fail)?
        && let Some(found) =
            value.other(file).map_err(|error| errors::failed(resource, "read the content of its source", error))?
    {
        if put.is_new {
            context.store().remove(&put.digest).map_err(fail)?;
        }
        return Ok(Err(match is_secret {
            true => "what came does not have the checksum that its server tells: it is not used".to_owned(),
            false => format!("what came has {found}, and is to have {}: it is not used", value.shown()),
        }));
    }
    if put.is_new {
        context.expect_use(&put.digest);
    }
    Ok(Ok(()))
}

/// Reads what a body gives; it ends well only when the body was whole.
struct Pieces {
    receiver: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    is_whole: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.is_whole {
            match self.receiver.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.is_whole = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the content broke off")),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// Returns whether a resource names a source at a web server.
pub(super) fn has_remote_source(resource: &Resource) -> bool {
    fn is_remote(value: &Value) -> bool {
        match value {
            Value::String(text) => source_uri::is_http(text),
            Value::Array(all) => all.iter().any(is_remote),
            Value::Sensitive(value) => is_remote(value),
            _ => false,
        }
    }
    resource.parameter("source").is_some_and(is_remote)
}

/// Returns the error of a content that should have been fetched.
pub(super) fn unfetched() -> FsError {
    FsError {
        path: std::path::PathBuf::new(),
        attempt: "use the source at a web server for",
        kind: FsErrorKind::NotFound,
        hint: Some("it was not fetched: run again"),
        source: io::ErrorKind::NotFound.into(),
    }
}

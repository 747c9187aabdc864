//! Where the report of a run goes beside the server that gave the catalog: other programs that know Puppet's reports, files, metrics.
//!
//! A [`ReportProcessor`] makes a body of a report and sends it. What cannot be sent is kept below the state directory, at most
//! [`MAX_KEPT`] bodies for each, and sent by a later run, oldest first; what is refused for good, or [`MAX_ATTEMPTS`] times, is dropped, and the
//! run says so.

mod bodies;
mod http;
mod prometheus;
mod queue;
mod store;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::Report;

pub use http::{HttpMethod, HttpReports, HttpRequest, HttpSend, ReportApi};
pub use prometheus::PrometheusTextfile;
pub use queue::{MAX_ATTEMPTS, MAX_KEPT};
pub use store::StoreReports;

use queue::{Queue, Waiting};

use crate::apply::error_chain;

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{processor}: {attempt}")]
pub struct ProcessorError {
    /// Who did not take it.
    pub processor: String,
    /// What was attempted, and what came of it.
    pub attempt: String,
    /// Whether it may be taken later.
    pub is_retryable: bool,
    /// Whether no other body would be taken now either.
    pub is_away: bool,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Which report a body is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportId {
    /// When the run began, in nanoseconds since 1970 UTC.
    pub time_unix_nanos: i64,
    /// The transaction id of the run.
    pub transaction_uuid: String,
}

/// Something that takes reports.
///
/// # Obligations
///
/// * [`ReportProcessor::send`] ends within some seconds, whatever the other side does: a run waits for it.
/// * A body that comes again is no error: what was answered may have been lost.
#[async_trait]
pub trait ReportProcessor: Debug + Send + Sync + 'static {
    /// Returns the name that messages and the directory of kept bodies have: letters, digits and `-`, one for each target.
    fn name(&self) -> &str;

    /// Makes the body that is sent. Blocking.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    fn body(&self, report: &Report) -> Result<Vec<u8>, ProcessorError>;

    /// Sends a body, of this run or an earlier one.
    ///
    /// # Errors
    ///
    /// When it was not taken; the error says whether it may be later.
    async fn send(&self, id: &ReportId, body: Bytes) -> Result<(), ProcessorError>;

    /// Returns whether bodies that could not be sent are kept. Not of what only the last run is of interest to.
    fn keeps(&self) -> bool {
        true
    }
}

/// Gives a report to all processors; returns what is to be told about those that did not take it.
pub(crate) async fn process(processors: &[Arc<dyn ReportProcessor>], state_dir: &Path, report: &Arc<Report>) -> Vec<String> {
    let mut messages = Vec::new();
    for processor in processors {
        if let Err(error) = one(processor, state_dir, report, &mut messages).await {
            messages.push(error_chain(&error));
        }
    }
    messages
}

async fn one(
    processor: &Arc<dyn ReportProcessor>,
    state_dir: &Path,
    report: &Arc<Report>,
    messages: &mut Vec<String>,
) -> Result<(), ProcessorError> {
    let queue = Queue::of(state_dir, processor.name());
    let (made, waiting) = {
        let (maker, report, queue) = (Arc::clone(processor), Arc::clone(report), queue.clone());
        blocking(processor, move || (maker.body(&report), queue.waiting())).await?
    };
    let body = Bytes::from(made?);
    let id = ReportId { time_unix_nanos: report.time_unix_nanos, transaction_uuid: report.transaction_uuid.clone() };
    let error = match send_waiting(processor, waiting, messages).await? {
        Some(away) => away,
        None => match processor.send(&id, body.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        },
    };
    if !error.is_retryable || !processor.keeps() {
        return Err(error);
    }
    let kept = blocking(processor, move || queue.keep(&id, &body)).await?;
    kept.map_err(|error| error_of(processor.name(), "keep the report", true, error))?;
    messages.push(format!("{}: the report is kept and sent by a later run", error_chain(&error)));
    Ok(())
}

/// Sends what waits, oldest first. One that is not taken does not keep back the others, unless they would come to nothing too: then returns why.
async fn send_waiting(
    processor: &Arc<dyn ReportProcessor>,
    waiting: Vec<Waiting>,
    messages: &mut Vec<String>,
) -> Result<Option<ProcessorError>, ProcessorError> {
    let mut put_off: Option<(ProcessorError, u64)> = None;
    let mut away = None;
    for waiting in waiting {
        let reader = waiting.clone();
        let read = blocking(processor, move || reader.read()).await?;
        let kept = match read {
            Ok(kept) => Bytes::from(kept),
            Err(error) => {
                let is_lost = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData | ErrorKind::IsADirectory);
                let error = error_of(processor.name(), format!("read {}", waiting.path.display()), false, error);
                let (error, what) = (error_chain(&error), if is_lost { "is dropped" } else { "goes on waiting" });
                messages.push(format!("{error}: a kept report {what}"));
                if is_lost {
                    blocking(processor, move || waiting.forget()).await?;
                }
                continue;
            }
        };
        match processor.send(&waiting.id, kept).await {
            Err(error) if error.is_away => {
                away = Some(error);
                break;
            }
            Err(error) if error.is_retryable => match blocking(processor, move || waiting.put_off()).await? {
                true => put_off = Some((error, put_off.map_or(0, |(_, count)| count) + 1)),
                false => {
                    let error = error_chain(&error);
                    messages.push(format!("{error}: a kept report is dropped after {MAX_ATTEMPTS} attempts"));
                }
            },
            sent => {
                if let Err(error) = sent {
                    messages.push(format!("{}: a kept report is dropped", error_chain(&error)));
                }
                blocking(processor, move || waiting.forget()).await?;
            }
        }
    }
    if let Some((error, count)) = put_off {
        messages.push(format!("{}: {count} kept reports go on waiting", error_chain(&error)));
    }
    Ok(away)
}

/// Does what blocks.
async fn blocking<R: Send + 'static>(
    processor: &Arc<dyn ReportProcessor>,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, ProcessorError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error_of(processor.name(), "work in the background", true, error))
}

/// An error that concerns the processor, not one body: when it is retryable, others would not be taken now either.
fn error_of(
    processor: &str,
    attempt: impl Into<String>,
    is_retryable: bool,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ProcessorError {
    ProcessorError {
        processor: processor.to_owned(),
        attempt: attempt.into(),
        is_retryable,
        is_away: is_retryable,
        source: Some(source.into()),
    }
}

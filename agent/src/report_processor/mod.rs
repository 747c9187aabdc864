//! Where the report of a run goes beside the server that gave the catalog: other programs that know Puppet's reports, files, metrics.
//!
//! A [`ReportProcessor`] makes a body of a report and sends it. What cannot be sent is kept below the state directory, at most
//! [`MAX_KEPT`] bodies for each, and sent by a later run, oldest first; what is refused for good is dropped, and the run says so.

mod bodies;
mod http;
mod prometheus;
mod queue;
mod store;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use direct_puppet_transport::protocol::Report;

pub use http::{HttpMethod, HttpReports, HttpRequest, HttpSend, ReportApi};
pub use prometheus::PrometheusTextfile;
pub use queue::MAX_KEPT;
pub use store::StoreReports;

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
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
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
    async fn send(&self, body: Bytes) -> Result<(), ProcessorError>;

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
    let queue = queue::Queue::of(state_dir, processor.name());
    let lost = |error: tokio::task::JoinError| error_of(processor.name(), "work in the background", true, error);
    let (made, waiting) = {
        let (processor, report, queue) = (Arc::clone(processor), Arc::clone(report), queue.clone());
        let work = move || (processor.body(&report), queue.waiting());
        tokio::task::spawn_blocking(work).await.map_err(lost)?
    };
    let body = Bytes::from(made?);
    let mut is_away = false;
    for path in waiting {
        let Ok(kept) = std::fs::read(&path) else { continue };
        match processor.send(Bytes::from(kept)).await {
            Err(error) if error.is_retryable => {
                // Later ones would come to nothing too.
                is_away = true;
                break;
            }
            Err(error) => messages.push(format!("{}: a kept report is dropped", error_chain(&error))),
            Ok(()) => {}
        }
        queue.forget(&path);
    }
    let error = match is_away {
        true => error_of(processor.name(), "send kept reports, and so this one", true, std::io::Error::other("not taken yet")),
        false => match processor.send(body.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        },
    };
    if !error.is_retryable || !processor.keeps() {
        return Err(error);
    }
    let name = format!("{:020}-{}", report.time_unix_nanos, report.transaction_uuid);
    let kept = tokio::task::spawn_blocking(move || queue.keep(&name, &body)).await.map_err(lost)?;
    kept.map_err(|error| error_of(processor.name(), "keep the report", true, error))?;
    messages.push(format!("{}: the report is kept and sent by a later run", error_chain(&error)));
    Ok(())
}

fn error_of(
    processor: &str,
    attempt: impl Into<String>,
    is_retryable: bool,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ProcessorError {
    ProcessorError { processor: processor.to_owned(), attempt: attempt.into(), is_retryable, source: Some(source.into()) }
}

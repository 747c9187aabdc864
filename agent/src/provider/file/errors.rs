//! Errors of this provider in the words of the engine.

use std::io;

use direct_puppet_transport::protocol::{ResourceRef, TreePath};

use crate::fs::{FsError, FsErrorKind, Root};
use crate::provider::ProviderError;

/// Returns the error of reading something that was opened below the root.
pub(in crate::provider) fn io(root: &Root, path: &TreePath, attempt: &'static str, source: io::Error) -> FsError {
    FsError { path: root.display(path), attempt, kind: FsErrorKind::Other, hint: None, source }
}

/// Returns the error of a whole resource.
pub(in crate::provider) fn failed(
    resource: &ResourceRef,
    attempt: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ProviderError {
    ProviderError::Failed { resource: resource.clone(), attempt: attempt.into(), source: source.into() }
}

/// Returns an error and its causes as one line.
pub(in crate::provider) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

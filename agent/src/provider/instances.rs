//! What providers have in common that list what is there.

use direct_puppet_transport::protocol::{Resource, Value};

use super::ProviderError;

/// Lists resources on a thread that may block.
pub(super) async fn listed(
    resource_type: &str,
    list: impl FnOnce() -> Result<Vec<Resource>, String> + Send + 'static,
) -> Result<Option<Vec<Resource>>, ProviderError> {
    let listed = tokio::task::spawn_blocking(list).await.map_err(|error| unlisted(resource_type, error.to_string()))?;
    listed.map(Some).map_err(|reason| unlisted(resource_type, reason))
}

/// Returns the error of a list that cannot be made.
pub(super) fn unlisted(resource_type: &str, reason: impl std::fmt::Display) -> ProviderError {
    ProviderError::Said { message: format!("what there is of type {resource_type} could not be found out: {reason}") }
}

/// Returns texts as a list.
pub(super) fn texts(texts: &[String]) -> Vec<Value> {
    texts.iter().map(|text| Value::from(text.as_str())).collect()
}

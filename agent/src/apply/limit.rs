//! How long a resource may take.

use std::future::Future;
use std::time::Duration;

use direct_puppet_transport::protocol::Resource;
use tokio_util::sync::CancellationToken;

use crate::provider::ProviderError;

/// How long a resource that is in work when the run is cancelled has to come to its end, before it is given up. Commands are killed at once.
const GRACE: Duration = Duration::from_secs(30);

/// Waits for one step of a resource: a check, an apply, a refresh.
///
/// # Errors
///
/// Also when it takes longer than `limit`, or does not end after the run was cancelled. It is then given up: its commands are killed with their
/// process groups; what it does on a thread of its own goes on there, and leaves each file old or new.
pub(super) async fn limited<R>(
    resource: &Resource,
    limit: Option<Duration>,
    cancel: &CancellationToken,
    work: impl Future<Output = Result<R, ProviderError>>,
) -> Result<R, ProviderError> {
    let too_long = async {
        match limit {
            Some(limit) => {
                tokio::time::sleep(limit).await;
                limit
            }
            None => std::future::pending().await,
        }
    };
    let given_up = async {
        cancel.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        biased;
        done = work => done,
        limit = too_long => Err(ProviderError::TimedOut { resource: resource.reference(), limit }),
        () = given_up => Err(ProviderError::Cancelled { resource: resource.reference() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_given_up() {
        let (resource, cancel) = (Resource::new("T", "a"), CancellationToken::new());
        let never = || std::future::pending::<Result<(), ProviderError>>();
        assert!(limited(&resource, None, &cancel, async { Ok(()) }).await.is_ok());
        let error = limited(&resource, Some(Duration::from_secs(3)), &cancel, never()).await.unwrap_err();
        assert_eq!(error.to_string(), "T[a]: took longer than 3s and was given up");
        cancel.cancel();
        assert!(limited(&resource, None, &cancel, async { Ok(()) }).await.is_ok(), "what ends is done");
        assert!(matches!(limited(&resource, None, &cancel, never()).await, Err(ProviderError::Cancelled { .. })));
    }
}

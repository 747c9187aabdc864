//! Work that waits for a disk or uses a core for long, away from the threads that answer.

use tokio::task::JoinError;

/// Runs `work` on a thread for such work.
///
/// # Errors
///
/// When it panicked, or the runtime ends.
///
/// # Cancel safety
///
/// The work goes on when the future is dropped.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    #[cfg(test)]
    if crate::tests::sim::is_simulated() {
        // One thread alone does the same in every run.
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// As [`run`], for what nobody waits for.
pub(crate) fn begin(work: impl FnOnce() + Send + 'static) {
    #[cfg(test)]
    if crate::tests::sim::is_simulated() {
        return work();
    }
    drop(tokio::task::spawn_blocking(work));
}

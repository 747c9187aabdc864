//! What is logged.

use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tracing::Dispatch;
use tracing::dispatcher::with_default;
use tracing::subscriber::NoSubscriber;

/// A second dispatcher beside that of a test. With one alone a place that logs for the first time on a thread that has none is taken to be
/// of interest to nobody, for all threads (`Dispatchers::rebuilder` of tracing-core).
static OTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

/// What this thread logs.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    written: Written,
    dispatch: Dispatch,
}

impl Log {
    pub(crate) fn new() -> Self {
        LazyLock::force(&OTHER);
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        Self { written, dispatch: Dispatch::new(subscriber) }
    }

    /// Logs what `work` does.
    pub(crate) fn of<T>(&self, work: impl FnOnce() -> T) -> T {
        with_default(&self.dispatch, work)
    }

    /// Returns what was logged since this was last called.
    pub(crate) fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.written.0.lock().unwrap_or_else(PoisonError::into_inner))).unwrap()
    }
}

#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

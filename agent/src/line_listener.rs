//! Who hears what a run tells, line by line.

use std::fmt;
use std::sync::Arc;

use crate::puppet_report::Line;

type Hear = dyn Fn(&Line<'_>) + Send + Sync;

/// Hears each line of the log of a run when it is made, once, in the order and the words of
/// [`lines`](crate::puppet_report::lines).
///
/// Only which configuration is applied comes when that begins, after what was said before. What goes wrong when the report is delivered is heard
/// after the last line, and is in no report. An error that ends the run is returned by the run, and not heard. The run waits meanwhile: what hears must not take long. The default hears nothing.
#[derive(Clone, Default)]
pub struct LineListener(Option<Arc<Hear>>);

impl LineListener {
    /// Returns one that calls `hear` with each line.
    pub fn new(hear: impl Fn(&Line<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hear)))
    }

    /// Returns whether anybody listens.
    pub(crate) const fn is_there(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn hear(&self, line: &Line<'_>) {
        if let Some(hear) = &self.0 {
            hear(line);
        }
    }
}

impl fmt::Debug for LineListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LineListener").field(&self.is_there()).finish()
    }
}

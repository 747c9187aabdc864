//! What a full disk leaves of a version that did not fit: it would leave no room for one that does.
//!
//! Contents are shared: what one version was the first to bring another may have found here since, and may be live with. Only what nobody
//! can have begun to rely on is removed; what stays for that goes with the next attempt, or the next collection.

use std::collections::HashSet;
use std::sync::Arc;

use direct_puppet_transport::protocol::{Digest, EntryKind};

use super::confirm::Upstream;
use crate::blocking;
use crate::code::Environments;
use crate::error::{ServerError, chain};
use crate::server::Server;

/// Why contents did not come.
#[derive(Debug)]
pub(crate) struct Unfetched {
    pub(crate) reason: String,
    /// Those that came and are of no use, for the disk is full.
    pub(super) of_no_use: Vec<Digest>,
}

impl From<String> for Unfetched {
    fn from(reason: String) -> Self {
        Self { reason, of_no_use: Vec::new() }
    }
}

/// Takes out what live code has.
fn retain_unused(environments: &Environments, digests: Vec<Digest>) -> HashSet<Digest> {
    let mut unused: HashSet<Digest> = digests.into_iter().collect();
    for entry in environments.all_live().iter().flat_map(|code| code.manifest.entries()) {
        if let EntryKind::File { digest, .. } = &entry.kind {
            unused.remove(digest);
        }
    }
    unused
}

impl Upstream {
    /// Removes contents that came of a version that does not fit, unless something else is brought, published or compiled just now. Whoever
    /// brought that version holds no collection any more.
    pub(crate) async fn discard(self: &Arc<Self>, digests: Vec<Digest>) {
        if digests.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        let discard = move || {
            let Some(_no_bringing) = this.hold_brings() else { return Ok(()) };
            let (Ok(_turn), Ok(_no_compile)) = (this.hearing.publishing.try_lock(), this.collecting.try_write()) else {
                return Ok(());
            };
            retain_unused(&this.environments, digests).iter().try_for_each(|digest| this.store.discard(digest))
        };
        if let Ok(Err(error)) = blocking::run(discard).await {
            tracing::warn!("{}", chain(&error));
        }
    }
}

impl Server {
    /// Removes contents that a publish has put of what does not fit, unless something is brought or compiled just now. In the turn of a
    /// publish. Blocking.
    pub(crate) fn discard(&self, digests: Vec<Digest>) -> Result<(), ServerError> {
        let _no_bringing = match self.upstream.as_ref().map(|upstream| upstream.hold_brings()) {
            Some(None) => return Ok(()),
            held => held,
        };
        let Ok(_no_compile) = self.collecting.try_write() else { return Ok(()) };
        retain_unused(&self.environments, digests).iter().try_for_each(|digest| self.store.discard(digest))?;
        Ok(())
    }
}

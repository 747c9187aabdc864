//! What the check of a resource follows from, for the settled record.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::TreePath;

use super::desired::{Desired, Want};
use super::owner::AccountKind;
use super::parameters::{Links, Parameters};
use super::source_uri::SourceUri;
use crate::fs::{FileKind, Stat};
use crate::provider::Context;
use crate::tree::{ContentState, Seen, Witness};

/// The witnesses so far; none any more once something else counted.
#[derive(Debug)]
pub(super) struct Gathered(Option<Vec<Witness>>);

impl Gathered {
    /// Starts; for a resource that may be settled at all.
    pub(super) fn new(context: &Context, parameters: &Parameters) -> Self {
        let asks = |source: &SourceUri| matches!(source, SourceUri::Local(_) | SourceUri::Http(_));
        let reads_sources = parameters.sources.iter().any(asks);
        let may_settle = context.options().settle && parameters.links == Links::Manage && !reads_sources;
        Self(may_settle.then(Vec::new))
    }

    /// Returns what gathers nothing.
    pub(super) const fn nothing() -> Self {
        Self(None)
    }

    /// Adds what the comparison of an entry looked at.
    pub(super) fn add_entry(&mut self, context: &Context, parameters: &Parameters, entry: &Desired, stat: Option<&Stat>) {
        if self.0.is_none() {
            return;
        }
        let is_same = || context.scanned(&entry.path).is_some_and(|scanned| scanned.content == ContentState::Same);
        match (&entry.want, stat) {
            (_, None) => self.add(&entry.path, Seen::Absent),
            (Want::File(Some(_)), Some(stat)) if stat.kind() == FileKind::File => {
                if is_same() {
                    self.add(&entry.path, Seen::Unchanged(*stat));
                } else if parameters.replace {
                    // Read just now, because the scan did not prove it: nobody remembers that.
                    self.0 = None;
                } else {
                    self.add(&entry.path, Seen::attributes(stat));
                }
            }
            (Want::Link(_), Some(stat)) => self.add(&entry.path, Seen::Unchanged(*stat)),
            (_, Some(stat)) => self.add(&entry.path, Seen::attributes(stat)),
        }
    }

    /// Adds the file that a name of a user or group was looked up in.
    pub(super) fn add_accounts(&mut self, kind: AccountKind, path: Option<&TreePath>, stat: Option<&Stat>) {
        match (path, stat) {
            (Some(path), Some(stat)) if path.as_bytes() == kind.path() => self.add(path, Seen::Unchanged(*stat)),
            // Behind a link, or not there.
            _ => self.0 = None,
        }
    }

    /// Adds directories whose entries counted, and returns everything.
    pub(super) fn with_listings(self, listings: BTreeMap<TreePath, Stat>) -> Option<Vec<Witness>> {
        let listed = listings.into_iter().map(|(path, stat)| Witness { path, seen: Seen::Unchanged(stat) });
        self.0.map(|gathered| gathered.into_iter().chain(listed).collect())
    }

    fn add(&mut self, path: &TreePath, seen: Seen) {
        if let Some(witnesses) = &mut self.0 {
            witnesses.push(Witness { path: path.clone(), seen });
        }
    }
}

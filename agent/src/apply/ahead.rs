//! Checks that only look at files run ahead of the order, several at once and on one thread, until something is changed.

use std::collections::HashMap;
use std::sync::Arc;

use direct_puppet_transport::hashing::FastState;
use direct_puppet_transport::protocol::Resource;

use super::engine::Engine;
use super::graph::Node;
use crate::provider::{Checked, Provider, ProviderError};

/// Most checks that run ahead at once.
const MOST: usize = 256;

/// What was found out before its turn, by index of the resource.
#[derive(Debug)]
pub(crate) struct Ahead {
    found: HashMap<usize, Result<Checked, ProviderError>, FastState>,
    /// How many checks run ahead next: twice as many after each time that nothing was changed.
    next: usize,
    /// The place in the order up to which was looked.
    until: usize,
}

impl Default for Ahead {
    fn default() -> Self {
        Self { found: HashMap::default(), next: 1, until: 0 }
    }
}

impl Ahead {
    /// Returns what was found out of a resource.
    pub(super) fn take(&mut self, at: usize) -> Option<Result<Checked, ProviderError>> {
        self.found.remove(&at)
    }

    /// Forgets everything, because something was changed, or a command ran that may have done so.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Engine<'_> {
    /// Checks the resource at a place of the order and what comes after it. With a limit of time for each resource, nothing runs ahead.
    pub(super) async fn look_ahead(&mut self, order: &[(usize, Node)], place: usize, blocked: &[bool]) {
        if self.options.resource_time_limit.is_some() || place < self.ahead.until {
            return;
        }
        let wanted = self.ahead.next;
        self.ahead.next = (2 * wanted).min(MOST);
        self.ahead.until = place + wanted;
        if wanted < 2 {
            return;
        }
        let mut work: Vec<(usize, Arc<dyn Provider>, Arc<Resource>)> = Vec::new();
        for (step, &(id, node)) in order[place..].iter().take(wanted).enumerate() {
            let Node::Resource(at) = node else { continue };
            let resource = &self.resources[at];
            let Some(provider) = self.providers.get(&resource.resource_type) else { continue };
            if !blocked[id] && self.will_be_checked(at) {
                work.push((at, Arc::clone(provider), Arc::clone(resource)));
            }
            if provider.checks_by_commands(resource) {
                // What comes after it would be thrown away when its turn has come.
                self.ahead.until = place + step + 1;
                break;
            }
        }
        let context = self.context.at_one_moment();
        let look = move || {
            let checks = work.into_iter().take_while(|_| !context.cancel().is_cancelled());
            checks
                .filter_map(|(at, provider, resource)| Some((at, provider.check_files(&context, &resource)?)))
                .collect::<Vec<_>>()
        };
        let looked = tokio::task::spawn_blocking(look);
        tokio::select! {
            // What could not be looked at ahead is looked at in its turn.
            found = looked => self.ahead.found.extend(found.unwrap_or_default()),
            () = self.context.cancel().cancelled() => {}
        }
    }
}

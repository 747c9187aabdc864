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

/// One check that runs ahead.
struct Look {
    /// Where in the order.
    place: usize,
    /// The index of the resource.
    at: usize,
    provider: Arc<dyn Provider>,
    resource: Arc<Resource>,
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
        let mut work = Vec::new();
        for (step, &(id, node)) in order[place..].iter().take(wanted).enumerate() {
            let Node::Resource(at) = node else { continue };
            let resource = &self.resources[at];
            if let Some(provider) = self.providers.get(&resource.resource_type)
                && !blocked[id]
                && self.will_be_checked(at)
            {
                work.push(Look { place: place + step, at, provider: Arc::clone(provider), resource: Arc::clone(resource) });
            }
        }
        let context = self.context.at_one_moment();
        let look = move || {
            let mut found = Vec::with_capacity(work.len());
            for Look { place, at, provider, resource } in work {
                if context.cancel().is_cancelled() {
                    break;
                }
                match provider.check_files(&context, &resource) {
                    Some(checked) => found.push((at, checked)),
                    // Commands run when its turn has come: what is found of those after it would be thrown away.
                    None if provider.checks_by_commands(&resource) => return (found, Some(place)),
                    None => {}
                }
            }
            (found, None)
        };
        let looked = tokio::task::spawn_blocking(look);
        tokio::select! {
            // What could not be looked at ahead is looked at in its turn.
            looked = looked => {
                let (found, ended_at) = looked.unwrap_or_default();
                self.ahead.found.extend(found);
                if let Some(ended_at) = ended_at {
                    self.ahead.until = ended_at + 1;
                }
            }
            () = self.context.cancel().cancelled() => {}
        }
    }
}

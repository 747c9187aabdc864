//! Which resources of one type come right after each other, so that one call may change them all.

use std::collections::HashSet;
use std::sync::Arc;

use direct_puppet_transport::protocol::Resource;

use super::engine::Engine;
use super::graph::Node;

/// Most resources that are told of at once: a command line has its limit.
const MOST: usize = 256;

impl Engine<'_> {
    /// Returns the resources at the beginning of `order` that nothing stands between and of which none waits for another, and how many places they take;
    /// none when there is only one.
    pub(super) fn neighbours(&self, order: &[(usize, Node)], blocked: &[bool]) -> (Vec<Arc<Resource>>, usize) {
        let mut found: Vec<Arc<Resource>> = Vec::new();
        let (mut end, mut waiting) = (1, HashSet::new());
        for (place, &(id, node)) in order.iter().enumerate() {
            match node {
                _ if blocked[id] || found.len() == MOST => break,
                Node::Border(_) if !waiting.contains(&id) => continue,
                Node::Border(_) => {}
                Node::Resource(at) => {
                    let resource = &self.resources[at];
                    let is_other = found.first().is_some_and(|first| first.resource_type != resource.resource_type);
                    if is_other || waiting.contains(&id) || !self.will_be_applied(at) {
                        break;
                    }
                    found.push(Arc::clone(resource));
                    end = place + 1;
                }
            }
            waiting.extend(self.graph.successors(id));
        }
        if found.len() > 1 { (found, end) } else { (Vec::new(), 1) }
    }

    /// Returns whether nothing but a failure keeps a resource from being applied.
    fn will_be_applied(&self, at: usize) -> bool {
        !self.options.noop && self.metaparameters[at].noop != Some(true) && self.will_be_checked(at)
    }

    /// Returns whether nothing but a failure keeps a resource from being checked.
    pub(super) fn will_be_checked(&self, at: usize) -> bool {
        let resource = &self.resources[at];
        let is_plain = self.metaparameters[at].schedule.is_none() && resource.parameter("audit").is_none();
        is_plain && !self.refused.contains_key(&at) && self.has_wanted_tags(resource)
    }
}

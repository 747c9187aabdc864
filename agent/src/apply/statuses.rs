//! What is told of one declared resource and of those that it generates.

use direct_puppet_transport::protocol::report::ResourceStatus;
use direct_puppet_transport::protocol::{Resource, ResourceRef};

/// The statuses of one declared resource and of those that it generates, by name once they are complete.
#[derive(Default)]
pub(super) struct Statuses {
    pub(super) list: Vec<ResourceStatus>,
}

impl Statuses {
    /// Returns the status of a resource, or a part of it: [`Statuses::complete`] joins them.
    pub(super) fn of(&mut self, reference: &ResourceRef, declared: &Resource) -> &mut ResourceStatus {
        let name = reference.to_string();
        if self.list.last().is_none_or(|last| last.resource != name) {
            self.list.push(ResourceStatus {
                resource: name,
                file: declared.file.clone(),
                line: declared.line,
                ..Default::default()
            });
        }
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    /// Returns one status for each resource.
    pub(super) fn complete(mut self) -> Vec<ResourceStatus> {
        self.list.sort_by(|a, b| a.resource.cmp(&b.resource));
        self.list.dedup_by(|part, whole| {
            let is_same = part.resource == whole.resource;
            if is_same {
                whole.events.append(&mut part.events);
                whole.out_of_sync |= part.out_of_sync;
                whole.changed |= part.changed;
                whole.failed |= part.failed;
                whole.failed_to_restart |= part.failed_to_restart;
                whole.corrective_change |= part.corrective_change;
                whole.planned.append(&mut part.planned);
                whole.pending_refresh = whole.pending_refresh.take().or_else(|| part.pending_refresh.take());
            }
            is_same
        });
        self.list
    }
}

/// Returns the status of a resource of which nothing is known yet.
pub(super) fn status_of(reference: &ResourceRef, declared: &Resource) -> ResourceStatus {
    ResourceStatus { resource: reference.to_string(), file: declared.file.clone(), line: declared.line, ..Default::default() }
}

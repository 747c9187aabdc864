//! The `Schedule` type: nothing to manage. The engine asks it when other resources may be applied.

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::Resource;

use super::file::read;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use crate::apply::{SCHEDULE_PARAMETERS, Schedule};

/// Accepts schedules.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ScheduleProvider;

#[async_trait]
impl Provider for ScheduleProvider {
    fn resource_type(&self) -> &str {
        "Schedule"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        read::only_known(resource, SCHEDULE_PARAMETERS)?;
        Schedule::parse(resource).map(drop)
    }

    async fn check(&self, _context: &Context, _resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        Ok(Checked { resources: 1, witnesses: Some(Vec::new()), ..Checked::default() })
    }

    async fn apply(&self, _context: &Context, _resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        Ok(Applied::default())
    }

    fn settles(&self) -> Option<&str> {
        Some("schedule 1")
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}

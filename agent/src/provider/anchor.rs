//! The `Anchor` type of the module stdlib: nothing to manage. It is a place in the order, from before there was `contain`, and hands on what
//! it is notified of.

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::Resource;

use super::file::read;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};

/// Accepts anchors.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AnchorProvider;

#[async_trait]
impl Provider for AnchorProvider {
    fn resource_type(&self) -> &str {
        "Anchor"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        read::only_known(resource, &["name"])
    }

    async fn check(&self, _context: &Context, _resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        Ok(Checked { resources: 1, witnesses: Some(Vec::new()), ..Checked::default() })
    }

    async fn apply(&self, _context: &Context, _resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        Ok(Applied::default())
    }

    fn refreshes(&self) -> bool {
        true
    }

    async fn refresh(&self, _context: &Context, _resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        Ok(true)
    }

    fn settles(&self) -> Option<&str> {
        Some("anchor 1")
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}

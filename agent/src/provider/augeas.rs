//! The `Augeas` type, which is refused: the resource fails with what to use instead, and the rest of the catalog goes on.

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::Resource;

use super::file::errors;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};

/// What is there instead.
const ADVICE: &str = "Augeas is not supported, as it needs a library in C and its lenses: use File_line, Ini_setting, \
    Concat_file, Host, Mount, Sshkey or Cron, or run augtool by Exec";

/// Refuses resources.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AugeasProvider;

#[async_trait]
impl Provider for AugeasProvider {
    fn resource_type(&self) -> &str {
        "Augeas"
    }

    fn validate(&self, _resource: &Resource) -> Result<(), ProviderError> {
        // Refused when its turn comes: nothing else of the catalog fails with it.
        Ok(())
    }

    async fn check(&self, _context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        Err(errors::failed(&resource.reference(), "change a file through Augeas", ADVICE))
    }

    async fn apply(&self, _context: &Context, resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        Err(errors::failed(&resource.reference(), "change a file through Augeas", ADVICE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::tests::World;

    #[tokio::test]
    async fn it_is_refused_with_advice() {
        let resource = Resource::new("Augeas", "sysctl").with("changes", "set /files/etc/sysctl.conf/x 1");
        let error = World::new().converge_by(&AugeasProvider, &resource).await.unwrap_err();
        assert!(error.starts_with("Augeas[sysctl]: ") && error.contains("File_line"), "{error}");
    }
}

//! The `Filebucket` type: nothing to manage. Old contents go to the local store, whatever a resource says, and this one says so.

use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Resource, Value};

use super::file::read;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};

const KNOWN: &[&str] = &["name", "server", "port", "path", "provider"];

/// Accepts filebuckets.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FilebucketProvider;

/// Returns whether a resource wants contents on a server.
fn is_remote(resource: &Resource) -> bool {
    resource.parameter("path").and_then(Value::as_bool) == Some(false)
}

#[async_trait]
impl Provider for FilebucketProvider {
    fn resource_type(&self) -> &str {
        "Filebucket"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        read::only_known(resource, KNOWN)?;
        if !is_remote(resource) {
            read::path(resource, "path")?;
        }
        read::string(resource, "server")?;
        match read::integer(resource, "port")? {
            Some(port) if u16::try_from(port).is_err() => Err(read::fail(resource, "port", "must be a port number")),
            _ => Ok(()),
        }
    }

    async fn check(&self, _context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let reason = "contents are kept in the local store, not on a server".to_owned();
        let skipped = is_remote(resource).then(|| (resource.reference(), reason));
        Ok(Checked { resources: 1, skipped: skipped.into_iter().collect(), ..Checked::default() })
    }

    async fn apply(&self, _context: &Context, _resource: &Arc<Resource>, _changes: &[Change]) -> Result<Applied, ProviderError> {
        Ok(Applied::default())
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::tests::World;

    #[tokio::test]
    async fn a_remote_one_is_named() {
        let check = async |resource: Resource| {
            FilebucketProvider.validate(&resource).unwrap();
            FilebucketProvider.check(&World::new().context(), &Arc::new(resource)).await.unwrap().skipped.len()
        };
        let bucket = || Resource::new("Filebucket", "main");
        assert_eq!(check(bucket()).await, 0);
        assert_eq!(check(bucket().with("path", false).with("server", "puppet").with("port", 8140)).await, 1);
        assert!(FilebucketProvider.validate(&bucket().with("port", 70_000)).is_err());
        assert!(FilebucketProvider.validate(&bucket().with("path", "x")).is_err());
    }
}

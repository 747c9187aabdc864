//! The `File` type, with the meaning that it has in Puppet.
//!
//! What differs, and why:
//!
//! * Contents are compared by digest, whatever `checksum` says; `mtime` and `ctime` count for sources on this machine only.
//! * `backup` is on by default: old content goes to the local store, so that a run can be undone. Every filebucket is that
//!   store; a suffix makes a copy beside the file as well. Of directories only the store keeps a backup.
//! * Sources on this machine, and links that are followed, are read below the managed root; links on the way are not
//!   followed. `sourceselect => all` of sources here together with a server's is refused.
//! * Sources at web servers are compared by the checksum, or the time, that the server tells: see `http.rs`.
//! * What cannot be done without `force` is a failure, not a notice that comes back in every run.
//! * Names of owners are looked up in `/etc/passwd` and `/etc/group` of the managed root; numeric ids always work.
//! * A path given as `ensure` must contain a slash. Contexts of SELinux are listed as skipped.
//! * Files are staged beside their targets whatever `staging_location` says: this is what makes replacing them atomic.

mod apply;
mod audit;
pub(super) mod backup;
mod by_path;
mod checksum;
mod compare;
mod desired;
mod diff;
pub(super) mod errors;
mod extras;
mod http;
mod identity;
mod mode;
mod observe;
mod owner;
mod parameters;
mod place;
pub(super) mod read;
mod relations;
mod source;
pub(super) mod source_uri;
#[cfg(test)]
pub(super) mod tests;
mod validate_cmd;
mod witnesses;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use direct_puppet_transport::HttpSource;
use direct_puppet_transport::protocol::{Catalog, Digest, Resource, ResourceRef};

pub use parameters::managed_path;

use super::instances::unlisted;
use super::{Applied, Autorequirer, Change, Checked, Context, ManagedPaths, Provider, ProviderError, named};
use crate::tree::WantedContent;
use desired::Exclusions;
use http::RemoteSources;
use owner::AccountCache;
use parameters::Parameters;

/// Manages files, directories and links.
#[derive(Debug, Clone, Default)]
pub struct FileProvider {
    accounts: Arc<AccountCache>,
    /// What asks web servers.
    http: Option<Arc<dyn HttpSource>>,
}

impl FileProvider {
    /// Returns the provider; it remembers nothing but names of accounts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns it with what asks web servers for files. Without, such sources fail.
    #[must_use]
    pub fn with_http(self, http: impl HttpSource) -> Self {
        Self { http: Some(Arc::new(http)), ..self }
    }
}

#[async_trait]
impl Provider for FileProvider {
    fn resource_type(&self) -> &str {
        "File"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        named(|names| relations::name_before(resource, names))
    }

    fn autorequirer<'a>(&'a self, _catalog: &'a Catalog) -> Autorequirer<'a> {
        Box::new(relations::name_before)
    }

    fn alias(&self, resource: &Resource) -> Option<String> {
        relations::alias(resource)
    }

    fn wanted(&self, resource: &Resource, managed: &ManagedPaths) -> Result<Vec<WantedContent>, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let exclusions = Exclusions::new(&parameters.path, managed);
        Ok(desired::wanted(resource, &parameters, &exclusions))
    }

    fn validated(&self, resource: &Resource, managed: &ManagedPaths) -> Result<Vec<WantedContent>, ProviderError> {
        self.wanted(resource, managed)
    }

    fn carried(&self, resource: &Resource) -> Vec<Digest> {
        let content = parameters::carried(resource).ok().flatten();
        content.map(|content| Digest::of(&content)).into_iter().collect()
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let remote = self.remote(context, resource, http::Need::Metadata).await?;
        let (context, cache, resource) = (context.clone(), Arc::clone(&self.accounts), Arc::clone(resource));
        blocking(resource.reference(), move || {
            let checked = compare::check(&context, &cache, &resource, &remote);
            let puts_content =
                |checked: &Checked| checked.changes.iter().any(|change| apply::Announced::of(change).puts_content());
            if context.options().noop || !checked.as_ref().is_ok_and(puts_content) {
                remote
                    .discard(&context)
                    .map_err(|error| errors::failed(&resource.reference(), "remove what it does not need", error))?;
            }
            checked
        })
        .await
    }

    fn check_files(&self, context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        // What a web server says is asked when its turn has come.
        (!http::has_remote_source(resource)).then(|| compare::check(context, &self.accounts, resource, &RemoteSources::default()))
    }

    fn hides_secrets(&self) -> bool {
        true
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let changes: Vec<_> = changes.iter().map(apply::Announced::of).collect();
        let puts_content = changes.iter().any(apply::Announced::puts_content);
        let need = if puts_content { http::Need::Content } else { http::Need::Nothing };
        let remote = self.remote(context, resource, need).await?;
        let (context, cache, resource) = (context.clone(), Arc::clone(&self.accounts), Arc::clone(resource));
        blocking(resource.reference(), move || apply::apply(&context, &cache, &resource, changes, &remote)).await
    }

    async fn audited(
        &self,
        context: &Context,
        resource: &Arc<Resource>,
    ) -> Result<Option<BTreeMap<Cow<'static, str>, String>>, ProviderError> {
        let (context, resource) = (context.clone(), Arc::clone(resource));
        let audited = blocking(resource.reference(), move || audit::audited(&context, &resource)).await?;
        Ok(Some(audited.into_iter().map(|(name, value)| (name.into(), value)).collect()))
    }

    async fn instances(&self, context: &Context, name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        let Some(name) = name else {
            let reason = "there are too many files: name one, as \"direct-puppet resource file /etc\"";
            return Err(unlisted("File", reason));
        };
        let (context, probe) = (context.clone(), Resource::new("File", name));
        let properties = blocking(probe.reference(), move || audit::audited(&context, &probe)).await?;
        Ok(Some(vec![audit::describe(name, properties)]))
    }

    fn settles(&self) -> Option<&str> {
        // To be counted up whenever a check may find something else about the same metadata.
        Some("file 1")
    }

    fn disturbs_files(&self) -> bool {
        false
    }
}

impl FileProvider {
    /// Asks web servers for what is needed of their sources.
    async fn remote(
        &self,
        context: &Context,
        resource: &Arc<Resource>,
        need: http::Need,
    ) -> Result<RemoteSources, ProviderError> {
        if !http::has_remote_source(resource) {
            return Ok(RemoteSources::default());
        }
        let parameters = Parameters::parse(resource)?;
        if parameters.ensure == Some(parameters::Ensure::Absent) {
            return Ok(RemoteSources::default());
        }
        RemoteSources::ask(self.http.as_deref(), context, &resource.reference(), &parameters, need).await
    }
}

/// Runs blocking work; it ends by itself when the future is dropped, and leaves each object old or new.
pub(super) async fn blocking<T: Send + 'static>(
    resource: ResourceRef,
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(errors::failed(&resource, "finish the work on it", error)),
    }
}

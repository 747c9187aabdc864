//! Which resources of a catalog are handed to Ruby, because nothing else manages their types.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use direct_puppet_transport::Transport;
use direct_puppet_transport::protocol::{Catalog, ResourceRef};

use super::Run;
use crate::provider::Providers;

/// What a run keeps of Ruby.
#[derive(Debug, Default)]
pub(super) struct Ruby {
    #[cfg(feature = "providers")]
    types: Option<Arc<crate::provider::ruby::RubyTypes>>,
    started: Arc<AtomicU64>,
}

impl Ruby {
    /// Returns how many processes were started.
    pub(super) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }
}

#[cfg(not(feature = "providers"))]
impl<T: Transport> Run<'_, T> {
    pub(super) async fn hand_over(&mut self, _catalog: &Catalog, _unusable: &BTreeMap<ResourceRef, String>) -> Arc<Providers> {
        Arc::clone(&self.inner.providers)
    }

    pub(super) async fn end_ruby(&self) {}
}

#[cfg(feature = "providers")]
impl<T: Transport> Run<'_, T> {
    /// Returns the agent's own providers, and beside them those of types that only Ruby has. `unusable` are resources that cannot be managed anyway.
    pub(super) async fn hand_over(&mut self, catalog: &Catalog, unusable: &BTreeMap<ResourceRef, String>) -> Arc<Providers> {
        use crate::provider::Provider as _;
        use crate::provider::ruby::{Handed, Run as OfRun, hand_over};
        let own = Arc::clone(&self.inner.providers);
        let Some(options) = &self.inner.ruby else { return own };
        let wanted = self.unmanaged(catalog, unusable);
        if wanted.is_empty() {
            return own;
        }
        if self.inner.root != std::path::Path::new("/") {
            let root = self.inner.root.display().to_string();
            self.warn(format!("types in Ruby are left out: they manage the running system, not what is below {root}"));
            return own;
        }
        let of_run = OfRun {
            noop: self.options.noop,
            show_diff: self.options.show_diff,
            cancel: &self.cancel,
            started: &self.ruby.started,
        };
        match hand_over(options, catalog, &wanted, of_run).await {
            Handed::Types { providers, types, unknown } => {
                self.ruby.types = Some(types);
                if let Some(unknown) = unknown {
                    self.warn(unknown);
                }
                let mut all = Providers::clone(&own);
                for provider in providers {
                    all.insert(provider.resource_type().to_owned(), Arc::new(provider));
                }
                Arc::new(all)
            }
            Handed::NotHere(reason) => {
                tracing::debug!("types in Ruby are left out: {reason}");
                own
            }
            Handed::Failed(reason) => {
                self.warn(format!("types in Ruby are left out: {reason}"));
                own
            }
        }
    }

    /// Returns the indices of resources that have a type which nothing manages, and nothing else that is wrong.
    fn unmanaged(&self, catalog: &Catalog, unusable: &BTreeMap<ResourceRef, String>) -> Vec<usize> {
        let given = self.given.as_ref().map(|given| &given.unusable);
        let mut wanted = Vec::new();
        for (at, resource) in catalog.resources.iter().enumerate() {
            let of_ruby = is_name_of_type(&resource.resource_type);
            if resource.is_container() || !of_ruby || self.inner.providers.contains_key(&resource.resource_type) {
                continue;
            }
            let reference = resource.reference();
            let is_unusable = resource.unusable.is_some()
                || unusable.contains_key(&reference)
                || given.is_some_and(|given| given.contains_key(&reference));
            if !is_unusable {
                wanted.push(at);
            }
        }
        wanted
    }

    /// Has Ruby come to its end, before the report.
    pub(super) async fn end_ruby(&self) {
        if let Some(types) = &self.ruby.types {
            types.end(&self.cancel).await;
        }
    }
}

/// Whether Ruby may look for a type of this name: it does so by the name of a file.
#[cfg(feature = "providers")]
fn is_name_of_type(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    name.bytes().all(is_word) && name.starts_with(|first: char| first.is_ascii_uppercase())
}

#[cfg(all(test, feature = "providers"))]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_a_word() {
        for (name, is_one) in [
            ("Level", true),
            ("A2mod", true),
            ("Mysql_user", true),
            ("", false),
            ("level", false),
            ("../Level", false),
            ("A::B", false),
            ("A/b", false),
        ] {
            assert_eq!(is_name_of_type(name), is_one, "{name}");
        }
    }
}

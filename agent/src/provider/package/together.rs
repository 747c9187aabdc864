//! Several packages in one transaction.
//!
//! The first of the packages that come right after each other takes those of the others along that are missing and have the same
//! call. They are told in their own turns, as found before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use direct_puppet_transport::protocol::Resource;

use super::manager::State;
use super::parameters::Wanted;
use super::{Change, Chosen, Context, PackageProvider};

/// Packages that come right after each other, and what one transaction did for all.
#[derive(Debug, Default)]
pub(super) struct Together {
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// In their order.
    neighbours: Vec<Arc<Resource>>,
    /// By title, what differed before the transaction.
    installed: HashMap<String, Vec<Change>>,
}

impl Together {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with other packages.
    pub(super) fn begin(&self, resources: &[Arc<Resource>]) {
        *self.inside() = Inside { neighbours: resources.to_vec(), installed: HashMap::new() };
    }

    /// Returns what differed of a package that was installed with another.
    pub(super) fn found(&self, title: &str) -> Option<Vec<Change>> {
        self.inside().installed.get(title).cloned()
    }

    /// Returns whether a package was installed with another, and forgets it.
    pub(super) fn take(&self, title: &str) -> bool {
        self.inside().installed.remove(title).is_some()
    }

    /// Returns those that come after a package.
    fn after(&self, title: &str) -> Vec<Arc<Resource>> {
        let inside = self.inside();
        let at = inside.neighbours.iter().position(|resource| resource.title == title);
        at.map(|at| inside.neighbours[at + 1..].to_vec()).unwrap_or_default()
    }
}

impl Chosen {
    fn joint(&self, provider: &PackageProvider, context: &Context, state: &State) -> Option<(Vec<String>, String)> {
        let installs = matches!(self.parameters.wanted, Wanted::Present | Wanted::Latest | Wanted::Version(_));
        installs.then(|| self.manager.joint(&provider.subject(context, self), state)).flatten()
    }
}

impl PackageProvider {
    /// Installs a package and those of its neighbours that can be installed with it; returns whether that was done. When there is none, or the
    /// transaction fails, nothing is known to be done, and each is to be tried by itself.
    pub(super) async fn install_together(&self, context: &Context, resource: &Resource, chosen: &Chosen, state: &State) -> bool {
        let neighbours = self.together.after(&resource.title);
        let Some((mut argv, package)) = chosen.joint(self, context, state).filter(|_| !neighbours.is_empty()) else {
            return false;
        };
        let call = argv.clone();
        argv.push(package);
        let mut taken = Vec::new();
        for neighbour in &neighbours {
            // What cannot be looked at tells why in its own turn.
            let Some((changes, package)) = self.joint_change(context, neighbour, chosen, &call).await else { continue };
            argv.push(package);
            taken.push((neighbour.title.clone(), changes));
        }
        if taken.is_empty() {
            return false;
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        if let Err(reason) = chosen.manager.install_together(&self.subject(context, chosen), &argv).await {
            tracing::info!(
                packages = taken.len() + 1,
                reason,
                "one transaction for several packages failed: each is tried by itself"
            );
            return false;
        }
        self.together.inside().installed.extend(taken);
        true
    }

    /// Returns what differs of a neighbour, and its word in the call; `None` when it is in sync or needs a call of its own.
    async fn joint_change(
        &self,
        context: &Context,
        neighbour: &Resource,
        with: &Chosen,
        call: &[String],
    ) -> Option<(Vec<Change>, String)> {
        let chosen = self.choose(context, neighbour).ok().filter(|chosen| chosen.kind == with.kind)?;
        let subject = self.subject(context, &chosen);
        let state = chosen.manager.query(&subject).await.ok()?;
        let (_, package) = chosen.joint(self, context, &state).filter(|(own, _)| own == call)?;
        let changes = chosen.compare(&subject, neighbour, &state).await.ok()?;
        let is_only_ensure = matches!(changes.as_slice(), [change] if change.property == "ensure");
        is_only_ensure.then_some((changes, package))
    }
}

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

/// What is to be done of a package that comes after another.
enum Neighbour {
    InSync,
    /// What differs, and its word in the call.
    Joins(Vec<Change>, String),
    StandsAlone,
}

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

    /// Keeps what was installed with another.
    fn installed(&self, packages: Vec<(Arc<Resource>, Vec<Change>)>) {
        let told = packages.into_iter().map(|(resource, changes)| (resource.title.clone(), changes));
        self.inside().installed.extend(told);
    }

    /// Has each that is left stand alone.
    fn part(&self) {
        self.inside().neighbours.clear();
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
    /// Installs a package and those of its neighbours that can be installed with it, up to the first that needs a call of its own; returns whether the
    /// package is installed. When the transaction fails, what it has done all the same is told in its turn, and each of the others is
    /// tried by itself.
    pub(super) async fn install_together(
        &self,
        context: &Context,
        resource: &Resource,
        (chosen, change): (&Chosen, &Change),
        state: &State,
    ) -> bool {
        let neighbours = self.together.after(&resource.title);
        let Some((mut argv, package)) = chosen.joint(self, context, state).filter(|_| !neighbours.is_empty()) else {
            return false;
        };
        let call = argv.clone();
        argv.push(package);
        let mut taken = Vec::new();
        for neighbour in &neighbours {
            match self.look_at(context, neighbour, chosen, &call).await {
                Neighbour::InSync => {}
                Neighbour::Joins(changes, package) => {
                    argv.push(package);
                    taken.push((Arc::clone(neighbour), changes));
                }
                // What comes after it may need it.
                Neighbour::StandsAlone => break,
            }
        }
        if taken.is_empty() {
            return false;
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        let subject = self.subject(context, chosen);
        let Err(reason) = chosen.manager.install_together(&subject, &argv).await else {
            self.together.installed(taken);
            return true;
        };
        tracing::info!(
            packages = taken.len() + 1,
            reason,
            "one transaction for several packages failed: each is tried by itself"
        );
        self.together.part();
        let mut done = Vec::new();
        for (neighbour, changes) in taken {
            if self.is_installed(context, &neighbour, &changes).await {
                done.push((neighbour, changes));
            }
        }
        self.together.installed(done);
        chosen.manager.query(&subject).await.is_ok_and(|state| chosen.is_done(change, &state))
    }

    async fn look_at(&self, context: &Context, neighbour: &Resource, with: &Chosen, call: &[String]) -> Neighbour {
        let Some(chosen) = self.choose(context, neighbour).ok().filter(|chosen| chosen.kind == with.kind) else {
            return Neighbour::StandsAlone;
        };
        let subject = self.subject(context, &chosen);
        // What cannot be looked at tells why in its own turn.
        let Ok(state) = chosen.manager.query(&subject).await else { return Neighbour::StandsAlone };
        let Ok(changes) = chosen.compare(&subject, neighbour, &state).await else { return Neighbour::StandsAlone };
        if changes.is_empty() {
            return Neighbour::InSync;
        }
        let is_only_ensure = matches!(changes.as_slice(), [change] if change.property == "ensure");
        match chosen.joint(self, context, &state) {
            Some((own, package)) if is_only_ensure && own == call => Neighbour::Joins(changes, package),
            _ => Neighbour::StandsAlone,
        }
    }

    async fn is_installed(&self, context: &Context, neighbour: &Resource, changes: &[Change]) -> bool {
        let Ok(chosen) = self.choose(context, neighbour) else { return false };
        let state = chosen.manager.query(&self.subject(context, &chosen)).await;
        state.is_ok_and(|state| changes.iter().all(|change| chosen.is_done(change, &state)))
    }
}

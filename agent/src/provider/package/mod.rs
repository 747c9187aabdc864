//! The `Package` type: packages of the system, Ruby's gems and Python's packages.
//!
//! What apt and dpkg have installed is read from dpkg's own file, so that a check runs nothing; all others are asked, and all
//! changes are made, through the command lines of the package managers. Packages that come right after each other in the order are
//! installed in one transaction where apt, dnf or yum can do that; when it fails, each is tried by itself.
//!
//! ```text
//! apt.rs   apt and dpkg      rpm.rs   rpm, yum and dnf      gem.rs, pip.rs      together.rs   one transaction for several
//! ```

mod apt;
mod gem;
mod instances;
mod manager;
mod parameters;
mod pip;
mod rpm;
#[cfg(test)]
mod tests;
mod together;
mod version;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef, TreePath};

use super::difference::{Differences, Shown};
use super::file::{errors, read};
use super::programs::Programs;
use super::record::applied;
use super::text_file::TextCache;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use manager::{Installed, Kind, Manager, State, Subject};
use parameters::{Parameters, Wanted};

/// How long one call of a package manager may take: a slow mirror and a large package. What is killed later than that leaves dpkg
/// in need of help.
const TIME_LIMIT: Duration = Duration::from_secs(3600);

/// Manages packages.
#[derive(Debug, Clone, Default)]
pub(super) struct PackageProvider {
    files: Arc<apt::DpkgFiles>,
    releases: Arc<TextCache<String>>,
    together: Arc<together::Together>,
    /// Where programs are looked for; `None` for the usual places.
    search: Option<String>,
}

/// What a resource is about once its package manager is known.
struct Chosen {
    parameters: Parameters,
    kind: Kind,
    manager: Box<dyn Manager>,
}

impl PackageProvider {
    fn programs<'a>(&'a self, context: &'a Context) -> Programs<'a> {
        Programs { context, search: self.search.as_deref(), time_limit: TIME_LIMIT }
    }

    fn choose(&self, context: &Context, resource: &Resource) -> Result<Chosen, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let kind = match parameters.kind {
            Some(kind) => kind,
            None => self.system(context, resource)?,
        };
        parameters.check_for(kind).map_err(|(parameter, reason)| read::fail(resource, parameter, reason))?;
        Ok(Chosen { parameters, kind, manager: kind.manager() })
    }

    /// Finds out the package manager of the system. Blocking, for the time of reading a short file.
    fn system(&self, context: &Context, resource: &Resource) -> Result<Kind, ProviderError> {
        let attempt = "find out the package manager of the system";
        for path in ["etc/os-release", "usr/lib/os-release"] {
            let path = TreePath::from_bytes(path.as_bytes()).unwrap_or_default();
            let path = context.resolve_links(&path).ok().flatten().unwrap_or(path);
            let failed = |error| errors::failed(&resource.reference(), attempt, error);
            if context.stat(&path).map_err(failed)?.is_some() {
                let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
                let text = self.releases.load(context, &path, text).map_err(failed)?;
                let found = Kind::of_system(&text, &self.programs(context));
                return found
                    .ok_or_else(|| errors::failed(&resource.reference(), attempt, "there is none that is known: give provider"));
            }
        }
        let found = Kind::of_system("", &self.programs(context));
        found.ok_or_else(|| errors::failed(&resource.reference(), attempt, "there is none that is known: give provider"))
    }

    fn subject<'a>(&'a self, context: &'a Context, chosen: &'a Chosen) -> Subject<'a> {
        Subject { context, programs: self.programs(context), parameters: &chosen.parameters, files: &self.files }
    }
}

impl Chosen {
    /// Returns what differs.
    async fn compare(&self, subject: &Subject<'_>, resource: &Resource, state: &State) -> Result<Vec<Change>, String> {
        let latest = match &self.parameters.wanted {
            Wanted::Latest if state.is_there() => Some(self.manager.latest(subject, state).await?),
            _ => None,
        };
        Ok(self.differences(resource, state, latest))
    }

    /// Returns what differs; `latest` is the version that the word stands for, where that counts.
    fn differences(&self, resource: &Resource, state: &State, latest: Option<String>) -> Vec<Change> {
        let mut found = Differences::of(resource);
        let previous = match &state.installed {
            Installed::Purged => "purged".to_owned(),
            Installed::Absent => "absent".to_owned(),
            Installed::Versions(versions) => versions.join("; "),
        };
        let is_there = state.is_there();
        match &self.parameters.wanted {
            Wanted::Present if is_there => {}
            Wanted::Present => found.add_ensure_as(&previous, "present", "created".to_owned()),
            Wanted::Absent if is_there => found.add_ensure_as(&previous, "absent", "removed".to_owned()),
            // Only dpkg tells what is removed from what is purged.
            Wanted::Purged
                if state.installed != Installed::Purged && (is_there || matches!(self.kind, Kind::Apt | Kind::Dpkg)) =>
            {
                found.add_ensure_as(&previous, "purged", "purged".to_owned());
            }
            Wanted::Absent | Wanted::Purged => {}
            Wanted::Latest if !is_there => found.add_ensure_as(&previous, "latest", "created".to_owned()),
            Wanted::Latest => {
                if let Some(latest) = latest.filter(|latest| !state.versions().contains(latest)) {
                    found.add_ensure(&previous, &latest);
                }
            }
            Wanted::Version(wanted) if state.versions().iter().any(|version| self.manager.is_version(version, wanted)) => {}
            Wanted::Version(wanted) if is_there => found.add_ensure(&previous, wanted),
            Wanted::Version(wanted) => found.add_ensure_as(&previous, wanted, "created".to_owned()),
            Wanted::Range(range) if is_there => {
                if !state.versions().iter().any(|version| range.contains(version, |a, b| self.manager.compare(a, b))) {
                    found.add_ensure(&previous, &range.text);
                }
            }
            Wanted::Range(range) => found.add_ensure_as(&previous, &range.text, "created".to_owned()),
        }
        // What is installed now is held with it.
        if let Some(held) = self.parameters.held.filter(|held| is_there && *held != state.held) {
            let word = |held: bool| Shown::Text(if held { "hold" } else { "none" }.to_owned());
            found.add("mark", &word(state.held), &word(held));
        }
        found.into_changes()
    }

    /// Has a range stand for the highest version in it that there is.
    async fn settle(&mut self, provider: &PackageProvider, context: &Context) -> Result<(), String> {
        let Wanted::Range(range) = &self.parameters.wanted else { return Ok(()) };
        let available = self.manager.available(&provider.subject(context, self)).await?;
        let compare = |a: &str, b: &str| self.manager.compare(a, b);
        let best = available.into_iter().filter(|version| range.contains(version, compare)).max_by(|a, b| compare(a, b));
        let best = best.ok_or_else(|| format!("no version that could be installed is in {}", range.text))?;
        self.parameters.wanted = Wanted::Version(best);
        Ok(())
    }

    async fn change(&self, subject: &Subject<'_>, property: &str, state: &State) -> Result<(), String> {
        match (property, &self.parameters.wanted) {
            ("mark", _) => self.manager.hold(subject, self.parameters.held == Some(true)).await,
            (_, Wanted::Absent) => self.manager.remove(subject, state).await,
            (_, Wanted::Purged) => self.manager.purge(subject, state).await,
            _ => self.manager.install(subject, state).await,
        }
    }
}

impl Chosen {
    /// Returns whether a change that was to be made is.
    fn is_done(&self, change: &Change, state: &State) -> bool {
        if change.property != "ensure" {
            return true;
        }
        match &self.parameters.wanted {
            Wanted::Absent | Wanted::Purged => !state.is_there(),
            Wanted::Present | Wanted::Range(_) => state.is_there(),
            // What was absent has no version that was promised.
            Wanted::Latest => {
                let promised = change.previous != "absent" && change.previous != "purged";
                state.is_there() && (!promised || state.versions().iter().any(|version| *version == *change.desired))
            }
            Wanted::Version(wanted) => state.versions().iter().any(|version| self.manager.is_version(version, wanted)),
        }
    }
}

#[async_trait]
impl Provider for PackageProvider {
    fn resource_type(&self) -> &str {
        "Package"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        let files = ["responsefile", "source"].into_iter().filter_map(|name| read::string(resource, name).ok().flatten());
        let files = files.filter(|path| path.starts_with('/'));
        files.map(|path| ResourceRef { resource_type: "File".to_owned(), title: path.to_owned() }).collect()
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        if let Some(changes) = self.together.found(&resource.title) {
            return Ok(Checked { resources: 1, changes, ..Checked::default() });
        }
        let chosen = self.choose(context, resource)?;
        let subject = self.subject(context, &chosen);
        let failed = |attempt: &str, reason: String| errors::failed(&resource.reference(), attempt, reason);
        let state = chosen.manager.query(&subject).await.map_err(|reason| failed("find out what is installed", reason))?;
        let changes = chosen.compare(&subject, resource, &state).await;
        let changes = changes.map_err(|reason| failed("find out the latest version", reason))?;
        Ok(Checked { resources: 1, changes, ..Checked::default() })
    }

    fn check_files(&self, context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        // What was installed with another is still to be told.
        if self.together.found(&resource.title).is_some() {
            return None;
        }
        let chosen = self.choose(context, resource).ok()?;
        if !matches!(chosen.kind, Kind::Apt | Kind::Dpkg) || chosen.parameters.wanted == Wanted::Latest {
            return None;
        }
        let state = apt::query(&self.subject(context, &chosen)).ok()?;
        let changes = chosen.differences(resource, &state, None);
        Some(Ok(Checked { resources: 1, changes, ..Checked::default() }))
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let mut chosen = self.choose(context, resource)?;
        if changes.iter().any(|change| change.property == "ensure")
            && let Err(reason) = chosen.settle(self, context).await
        {
            return Ok(applied(changes, Err(reason)));
        }
        let subject = self.subject(context, &chosen);
        let failed = |reason: String| errors::failed(&resource.reference(), "find out what is installed", reason);
        let mut state = chosen.manager.query(&subject).await.map_err(failed)?;
        let mut result = Applied::default();
        // What the transaction of an earlier one did not do after all is done now.
        let was_installed = self.together.take(&resource.title) && changes.iter().all(|change| chosen.is_done(change, &state));
        for (at, change) in changes.iter().enumerate().filter(|_| !was_installed) {
            let done =
                match change.property == "ensure" && self.install_together(context, resource, (&chosen, change), &state).await {
                    true => Ok(()),
                    false => chosen.change(&subject, &change.property, &state).await,
                };
            if let Err(reason) = done {
                result.failures.insert(at, reason);
                continue;
            }
            // Package managers end well also when they did something else.
            state = chosen.manager.query(&subject).await.map_err(failed)?;
            if !chosen.is_done(change, &state) {
                result.failures.insert(at, format!("the package manager ended well, and yet there is {:?}", state.installed));
            }
        }
        Ok(result)
    }

    async fn instances(&self, context: &Context, name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        self.list(context, name).await.map(Some)
    }

    fn joins(&self) -> bool {
        true
    }

    fn together(&self, resources: &[Arc<Resource>]) {
        self.together.begin(resources);
    }
}

//! The `Service` type: services of systemd, init scripts, and daemons that have neither.
//!
//! Without `provider`, systemd where it runs (`/run/systemd/system`), else init scripts, enabled by `update-rc.d` where that is
//! there. When a service is not as `ensure` wants it, that is the only change, and `enable` is seen to with it, as Puppet does. A
//! service that was started in a run is not restarted in it by what notifies it.
//!
//! ```text
//! systemd.rs   systemctl      scripts.rs   init scripts, commands, signals      processes.rs   what runs
//! ```

mod instances;
mod parameters;
mod processes;
mod scripts;
mod systemd;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Resource, TreePath};

use super::difference::{Differences, Shown};
use super::file::{errors, read};
use super::programs::Programs;
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use parameters::{Enable, FOR_OTHERS, Kind, Parameters};

/// How long one command of a service may take; systemd's own limit is 90 seconds by default, but some services raise it.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Manages services.
#[derive(Debug, Clone, Default)]
pub(super) struct ServiceProvider {
    /// Titles of those that were started since they were checked: a refresh has nothing to do for them.
    started: Arc<Mutex<HashSet<String>>>,
    /// Where programs are looked for; `None` for the usual places.
    search: Option<String>,
}

/// One service, and everything that is needed to look at it and to change it.
struct Service<'a> {
    programs: Programs<'a>,
    parameters: &'a Parameters,
    kind: Kind,
}

/// A service as it is.
#[derive(Debug, Clone, Copy)]
struct State {
    running: bool,
    /// `None` when that is left alone, or cannot be changed.
    enabled: Option<Enable>,
}

impl Service<'_> {
    async fn is_running(&self) -> Result<bool, String> {
        match (self.kind, &self.parameters.status) {
            (Kind::Systemd, None) => self.systemd_is_active().await,
            _ => self.script_is_running().await,
        }
    }

    async fn state(&self) -> Result<State, String> {
        let running = if self.parameters.running.is_some() { self.is_running().await? } else { false };
        let enabled = match (self.parameters.enable, self.kind) {
            (None, _) | (_, Kind::Init | Kind::Base) => None,
            (_, Kind::Systemd) => self.systemd_enabled().await?,
            (_, Kind::Debian) => Some(self.debian_enabled().await?),
        };
        Ok(State { running, enabled })
    }

    fn compare(&self, resource: &Resource, state: State) -> Vec<Change> {
        let mut found = Differences::of(resource);
        let word = |running: bool| if running { "running" } else { "stopped" };
        if let Some(wanted) = self.parameters.running.filter(|wanted| *wanted != state.running) {
            found.add_ensure(word(state.running), word(wanted));
        } else if let Some((wanted, current)) = self.wrong_enable(state) {
            let shown = |enable: Enable| Shown::Text(enable.word().to_owned());
            found.compare("enable", &shown(current), Some(&shown(wanted)));
        }
        found.into_changes()
    }

    /// Returns what `enable` shall be and is, when that differs.
    fn wrong_enable(&self, state: State) -> Option<(Enable, Enable)> {
        let pair = self.parameters.enable.zip(state.enabled);
        pair.filter(|(wanted, current)| wanted != current)
    }

    async fn act(&self, verb: &str) -> Result<(), String> {
        match self.kind {
            Kind::Systemd => self.systemd_act(verb).await,
            _ => self.script_act(verb).await,
        }
    }

    async fn set_enabled(&self, enable: Enable) -> Result<(), String> {
        match self.kind {
            Kind::Systemd => self.systemd_set_enabled(enable).await,
            _ => self.debian_set_enabled(enable).await,
        }
    }
}

impl ServiceProvider {
    fn started(&self) -> MutexGuard<'_, HashSet<String>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn service<'a>(
        &'a self,
        context: &'a Context,
        resource: &Resource,
        parameters: &'a Parameters,
    ) -> Result<Service<'a>, ProviderError> {
        let programs = Programs { context, search: self.search.as_deref(), time_limit: TIME_LIMIT };
        programs.only_running("services").map_err(|reason| errors::failed(&resource.reference(), "look at a service", reason))?;
        let kind = parameters.kind.unwrap_or_else(|| system(context, &programs));
        parameters.check_for(kind).map_err(|(parameter, reason)| read::fail(resource, parameter, reason))?;
        Ok(Service { programs, parameters, kind })
    }
}

/// Returns what manages services on this system.
fn system(context: &Context, programs: &Programs<'_>) -> Kind {
    let is_there = |path: &str| {
        let path = TreePath::from_bytes(path.as_bytes()).unwrap_or_default();
        context.root().stat(&path).is_ok_and(|stat| stat.is_some())
    };
    if is_there("run/systemd/system") {
        Kind::Systemd
    } else if scripts::has_update_rc(programs) {
        Kind::Debian
    } else if is_there("etc/init.d") {
        Kind::Init
    } else {
        Kind::Base
    }
}

#[async_trait]
impl Provider for ServiceProvider {
    fn resource_type(&self) -> &str {
        "Service"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        self.started().remove(&resource.title);
        let parameters = Parameters::parse(resource)?;
        let service = self.service(context, resource, &parameters)?;
        let failed = |reason: String| errors::failed(&resource.reference(), "look at the service", reason);
        let state = service.state().await.map_err(failed)?;
        let left_out = FOR_OTHERS.iter().filter(|name| resource.parameters.contains_key(**name));
        let left_out = left_out.map(|name| (resource.reference(), format!("{name} is for other systems and left alone")));
        let changes = service.compare(resource, state);
        Ok(Checked { resources: 1, changes, skipped: left_out.collect(), ..Checked::default() })
    }

    fn check_files(&self, context: &Context, resource: &Arc<Resource>) -> Option<Result<Checked, ProviderError>> {
        let parameters = Parameters::parse(resource).ok()?;
        let has_others = FOR_OTHERS.iter().any(|name| resource.parameters.contains_key(*name));
        // All others have commands to run, or something to be told.
        if parameters.kind != Some(Kind::Base) || parameters.status.is_some() || has_others {
            return None;
        }
        let service = self.service(context, resource, &parameters).ok()?;
        let is_running = || processes::find_at_moment(context, &parameters.pattern).map(|found| found.is_some());
        let running = if parameters.running.is_some() { is_running().ok()? } else { false };
        self.started().remove(&resource.title);
        let changes = service.compare(resource, State { running, enabled: None });
        Some(Ok(Checked { resources: 1, changes, ..Checked::default() }))
    }

    fn checks_by_commands(&self, resource: &Resource) -> bool {
        resource.parameter("status").is_some()
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let service = self.service(context, resource, &parameters)?;
        let mut applied = Applied::default();
        for (at, change) in changes.iter().enumerate() {
            let done = async {
                if change.property == "ensure" {
                    let verb = if parameters.running == Some(true) { "start" } else { "stop" };
                    service.act(verb).await?;
                    if verb == "start" {
                        self.started().insert(resource.title.clone());
                    }
                }
                match service.wrong_enable(service.state().await?) {
                    Some((wanted, _)) => service.set_enabled(wanted).await,
                    None => Ok(()),
                }
            };
            if let Err(reason) = done.await {
                applied.failures.insert(at, reason);
            }
        }
        Ok(applied)
    }

    async fn instances(&self, context: &Context, name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        self.list(context, name).await.map(Some)
    }

    fn refreshes(&self) -> bool {
        true
    }

    async fn refresh(&self, context: &Context, resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        if self.started().remove(&resource.title) {
            return Ok(false);
        }
        let parameters = Parameters::parse(resource)?;
        let service = self.service(context, resource, &parameters)?;
        let failed = |reason: String| errors::failed(&resource.reference(), "restart the service", reason);
        if !service.is_running().await.map_err(failed)? {
            // There is nothing to restart, but it was heard.
            return Ok(true);
        }
        service.act("restart").await.map_err(failed)?;
        Ok(true)
    }
}

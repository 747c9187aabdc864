//! The types in Ruby of one run, and the process that runs them.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use direct_puppet_transport::protocol::{Catalog, Certname, Environment, Resource, ResourceRef, Value};
use tokio_util::sync::CancellationToken;

use super::message::{Answer, Ask, Item, Load, Loaded, Settings, Versions};
use super::options::named;
use super::worker::{Patience, Worker, WorkerError};
use super::{RubyOptions, RubyProvider, trust};
use crate::provider::file::errors;

/// What a run is like, as far as types in Ruby are to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) noop: bool,
    pub(crate) show_diff: bool,
    pub(crate) cancel: &'a CancellationToken,
    /// Counts the processes that are started.
    pub(crate) started: &'a Arc<AtomicU64>,
}

/// What became of the resources that nothing else manages.
#[derive(Debug)]
pub(crate) enum Handed {
    /// Ruby manages those of these types; it knows no others.
    Types {
        /// One provider for each type.
        providers: Vec<RubyProvider>,
        /// What they share.
        types: Arc<RubyTypes>,
        /// Types that Ruby does not know either, with what was asked and where it looked.
        unknown: Option<String>,
    },
    /// There is no Ruby here, or it has no library of Puppet's.
    NotHere(String),
    /// It is there, and cannot be used.
    Failed(String),
}

/// The types in Ruby of one run.
#[derive(Debug)]
pub(crate) struct RubyTypes {
    options: RubyOptions,
    program: std::path::PathBuf,
    certname: Certname,
    environment: Environment,
    noop: bool,
    show_diff: bool,
    /// The question that loads all resources: each process needs it.
    load: Secret,
    /// What was answered, by resource, and its place in what was loaded.
    loaded: HashMap<ResourceRef, (usize, Loaded)>,
    has_secrets: bool,
    worker: Mutex<Option<Worker>>,
    started: Arc<AtomicU64>,
}

/// Bytes that are not shown.
struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// Asks Ruby about the resources of a catalog at these indices, if there is one.
pub(crate) async fn hand_over(options: &RubyOptions, catalog: &Catalog, wanted: &[usize], run: Run<'_>) -> Handed {
    let looked = {
        let options = options.clone();
        tokio::task::spawn_blocking(move || options.found()).await
    };
    let program = match looked {
        Ok(Ok(Some(program))) => program,
        Ok(Ok(None)) => return Handed::NotHere("there is no Ruby".to_owned()),
        Ok(Err(error)) => return Handed::Failed(error.to_string()),
        Err(error) => return Handed::Failed(error.to_string()),
    };
    let load = match question(catalog, wanted) {
        Ok(load) => load,
        Err(error) => return Handed::Failed(format!("its resources could not be written down: {error}")),
    };
    let resources = wanted.iter().filter_map(|&at| catalog.resources.get(at));
    let types = RubyTypes {
        options: options.clone(),
        program,
        certname: catalog.certname.clone(),
        environment: catalog.environment.clone(),
        noop: run.noop,
        show_diff: run.show_diff,
        load: Secret(load),
        loaded: HashMap::new(),
        has_secrets: resources.clone().any(|resource| resource.parameters.values().any(Value::is_sensitive)),
        worker: Mutex::new(None),
        started: Arc::clone(run.started),
    };
    let patience = Patience { limit: options.call_limit, cancel: run.cancel };
    match types.start(patience).await {
        Ok((worker, versions, answered)) => types.handed(worker, &versions, resources, answered),
        Err(WorkerError::Missing(reason)) => Handed::NotHere(reason),
        Err(error) => Handed::Failed(errors::chain(&error)),
    }
}

fn question(catalog: &Catalog, wanted: &[usize]) -> serde_json::Result<Vec<u8>> {
    let is_wanted: BTreeSet<usize> = wanted.iter().copied().collect();
    let others = catalog.resources.iter().enumerate().filter(|(at, _)| !is_wanted.contains(at));
    serde_json::to_vec(&Load {
        call: "load",
        resources: wanted.iter().filter_map(|&at| catalog.resources.get(at)).map(Item::of).collect(),
        others: others.map(|(_, resource)| (resource.resource_type.as_str(), resource.title.as_str())).collect(),
    })
}

impl RubyTypes {
    /// Has the process come to its end, if there is one.
    pub(crate) async fn end(&self, cancel: &CancellationToken) {
        let Some(mut worker) = self.take() else { return };
        // Also of a run that was cancelled: types may have something to close.
        let limit = Duration::from_secs(if cancel.is_cancelled() { 5 } else { 60 });
        let patience = Patience { limit: self.options.call_limit.min(limit), cancel: &CancellationToken::new() };
        match worker.ask(Some(br#"{"call":"end"}"#), patience).await {
            Ok(answer) => {
                if let Ok(answer) = Answer::read(&answer, "end") {
                    self.tell(&answer);
                }
                worker.end().await;
            }
            Err(error) => tracing::warn!("types in Ruby: {}", errors::chain(&self.without_secrets(error))),
        }
    }

    pub(super) fn loaded(&self, resource: &Resource) -> Option<&Loaded> {
        self.loaded.get(&resource.reference()).map(|(_, loaded)| loaded)
    }

    /// Asks about one resource. When there is no process, or the last one has ended, one is started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the process.
    pub(super) async fn ask(
        &self,
        call: &'static str,
        resource: &Resource,
        cancel: &CancellationToken,
    ) -> Result<Answer, WorkerError> {
        if cancel.is_cancelled() {
            return Err(WorkerError::Cancelled);
        }
        // What is in work comes to its end: the engine gives it up, and drops this, when it does not.
        let never = CancellationToken::new();
        let patience = Patience { limit: self.options.call_limit, cancel: if call == "audit" { cancel } else { &never } };
        let (at, _) = self
            .loaded
            .get(&resource.reference())
            .ok_or_else(|| WorkerError::Load(format!("{} was not loaded", resource.reference())))?;
        let question = serde_json::to_vec(&Ask { call, resource: *at })?;
        let idle = self.take().and_then(|mut worker| worker.is_alive().then_some(worker));
        let mut worker = match idle {
            Some(worker) => worker,
            None => self.start(patience).await.map_err(|error| self.without_secrets(error))?.0,
        };
        let answer = worker.ask(Some(&question), patience).await.map_err(|error| self.without_secrets(error))?;
        let answer = Answer::read(&answer, call)?;
        *self.lock() = Some(worker);
        self.tell(&answer);
        Ok(answer)
    }

    /// Starts a process and has it load all resources.
    async fn start(&self, patience: Patience<'_>) -> Result<(Worker, Versions, Vec<Loaded>), WorkerError> {
        let settings = Settings {
            certname: self.certname.as_str(),
            environment: self.environment.as_str(),
            libraries: &self.options.libraries,
            settings: &self.options.settings,
            noop: self.noop,
            show_diff: self.show_diff,
        };
        let starting = Patience { limit: self.options.start_limit, ..patience };
        let (mut worker, versions) = Worker::start(&self.program, &settings, &self.started, starting).await?;
        if self.options.libraries.is_empty() {
            let libraries = versions.libraries.clone();
            // Of Puppet's own directory it is not known before where it is; nothing was loaded from there yet.
            let looked = move || libraries.iter().filter(|dir| dir.exists()).try_for_each(|dir| named(dir, trust::library));
            let looked = tokio::task::spawn_blocking(looked).await.map_err(std::io::Error::other)?;
            looked.map_err(|error| WorkerError::Load(error.to_string()))?;
        }
        let answer = Answer::read(&worker.ask(Some(&self.load.0), starting).await?, "load")?;
        self.tell(&answer);
        match answer.error {
            Some(reason) => Err(WorkerError::Load(if self.has_secrets { "[redacted]".to_owned() } else { reason })),
            None => Ok((worker, versions, answer.resources)),
        }
    }

    fn handed<'a>(
        mut self,
        worker: Worker,
        versions: &Versions,
        resources: impl Iterator<Item = &'a Resource> + Clone,
        answered: Vec<Loaded>,
    ) -> Handed {
        if answered.len() != resources.clone().count() {
            return Handed::Failed(format!("Ruby answered about {} resources, which are not those asked about", answered.len()));
        }
        *self.lock() = Some(worker);
        let (mut known, mut unknown) = (HashMap::<&str, bool>::new(), BTreeSet::new());
        for (at, (resource, loaded)) in resources.zip(answered).enumerate() {
            if loaded.known {
                *known.entry(&resource.resource_type).or_default() |= loaded.refreshes;
                self.loaded.insert(resource.reference(), (at, loaded));
            } else {
                unknown.insert(resource.resource_type.as_str());
            }
        }
        let unknown = (!unknown.is_empty()).then(|| {
            let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
            let dirs = versions.libraries.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
            format!("Puppet {} in Ruby {} knows no type {names} either: looked in {dirs}", versions.puppet, versions.ruby)
        });
        let types = Arc::new(self);
        let provider = |(name, refreshes): (&str, bool)| RubyProvider::new(name, refreshes, Arc::clone(&types));
        Handed::Types { providers: known.into_iter().map(provider).collect(), types, unknown }
    }

    /// Passes on what types have logged; nothing when they know a secret.
    fn tell(&self, answer: &Answer) {
        for (level, text) in &answer.log {
            let text = if self.has_secrets { "[redacted]" } else { text.as_str() };
            match level.as_str() {
                "notice" => tracing::info!("types in Ruby: {text}"),
                _ => tracing::warn!("types in Ruby: {text}"),
            }
        }
    }

    /// What a type has written may hold the secrets of any resource.
    fn without_secrets(&self, error: WorkerError) -> WorkerError {
        match error {
            WorkerError::Ended { status, .. } if self.has_secrets => WorkerError::Ended { status, said: String::new() },
            other => other,
        }
    }

    fn take(&self) -> Option<Worker> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Worker>> {
        self.worker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

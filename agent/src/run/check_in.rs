//! Finding the catalog: from the server's word, or from disk when it cannot be asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use direct_puppet_transport::protocol::packed_catalog::{CATALOG_IN_COLUMNS, PACKED_CATALOG, unpack_catalog};
use direct_puppet_transport::protocol::report::CachedCatalogStatus;
use direct_puppet_transport::protocol::{
    Catalog, CatalogId, CatalogReply, CheckIn, CodeId, Held, Manifest, ProtocolVersion, SubmitFacts, VersionCounter,
};
use direct_puppet_transport::{Client, Transport};

use super::state::State;
use super::{Run, Source};
use crate::agent::Inner;
use crate::apply::error_chain;
use crate::catalog_cache::CatalogCache;
use crate::error::RunError;
use crate::lock;
use crate::outcome::Answer;

/// Longest wait that one check-in asks for, in seconds: below what proxies cut off.
const MAX_WAIT_SECONDS: u64 = 300;

/// The catalog of a run.
pub(super) struct Found {
    pub(super) source: Source,
    /// `None` when it is on disk and was not read.
    pub(super) catalog: Option<Catalog>,
    /// Its bytes, when they are not on disk yet.
    pub(super) bytes: Option<Bytes>,
    /// The catalog held before, when it is another one.
    pub(super) prior: Option<(CatalogId, Catalog)>,
    /// Why the server was not asked, or said nothing.
    pub(super) cause: Option<RunError>,
}

impl<T: Transport> Run<'_, T> {
    /// Reads the catalog that is held: not before it is needed, for a settled record may do without. If it is damaged, the server is asked again.
    pub(super) async fn read_catalog(&mut self, state: &State, found: &mut Found) -> Result<Catalog, RunError> {
        if let Some((_, catalog)) = state.catalogs.load(&self.inner.environment) {
            return Ok(catalog);
        }
        let cause = found.cause.take();
        if found.source.answer != Answer::Cached {
            *found = self.find_catalog(state, None).await?;
        }
        let nothing = || RunError::NoCatalog { environment: self.inner.environment.clone(), source: cause.map(Box::new) };
        found.catalog.take().ok_or_else(nothing)
    }

    /// Finds out which catalog is to be applied; `on_disk` is the one held.
    pub(super) async fn find_catalog(&mut self, state: &State, on_disk: Option<Held>) -> Result<Found, RunError> {
        if self.given.is_some() {
            return self.found_given(on_disk, state);
        }
        if self.options.use_cached_catalog {
            self.check_cached(on_disk)?;
            return self.found_on_disk(on_disk, CachedCatalogStatus::ExplicitlyRequested, None);
        }
        match self.ask_packed(state, on_disk).await {
            Ok(reply) => self.found_in_reply(reply, on_disk, state),
            Err(RunError::Cancelled) => Err(RunError::Cancelled),
            Err(error) if self.options.use_cache_on_failure && self.is_new_enough(on_disk) => {
                self.warn(format!("{}: using the cached catalog", error_chain(&error)));
                self.found_on_disk(on_disk, CachedCatalogStatus::OnFailure, Some(error))
            }
            Err(error) => Err(error),
        }
    }

    /// As [`Run::ask`], with a catalog that comes packed unpacked; what does not come right that way is asked for whole.
    async fn ask_packed(&self, state: &State, held: Option<Held>) -> Result<CatalogReply, RunError> {
        let check_in = check_in_message(self.inner, held, Duration::ZERO);
        let reply = self.ask(check_in.clone()).await?;
        let CatalogReply::Packed { catalog_id, code_id, version, unconfirmed_seconds, is_against_held, layout, size, packed } =
            reply
        else {
            return Ok(reply);
        };
        let catalogs = state.catalogs.clone();
        let unpack = move || -> Result<Bytes, String> {
            let base = held.filter(|_| is_against_held).and_then(|held| catalogs.read(held.catalog_id));
            let catalog = unpack_catalog(&packed, base.as_deref().unwrap_or_default(), layout, size)
                .map_err(|error| error_chain(&error))?;
            let is_it = CatalogId::of(&catalog) == catalog_id;
            is_it.then(|| catalog.into()).ok_or_else(|| "it is another catalog than it should be".to_owned())
        };
        match tokio::task::spawn_blocking(unpack).await.map_err(RunError::Lost)? {
            Ok(catalog) => Ok(CatalogReply::Catalog { catalog_id, code_id, version, unconfirmed_seconds, catalog }),
            Err(reason) => {
                tracing::warn!(reason, "the packed catalog is no good: it is asked for whole");
                self.ask(CheckIn { features: Vec::new(), ..check_in }).await
            }
        }
    }

    /// Checks in, sends facts if they are needed, and returns what the server says in the end.
    async fn ask(&self, check_in: CheckIn) -> Result<CatalogReply, RunError> {
        let asked = async {
            let check_in = CheckIn { at_least: self.at_least(), ..check_in };
            let reply = self.client.check_in(&check_in).await.map_err(RunError::CheckIn)?;
            if reply != CatalogReply::FactsNeeded {
                return Ok(reply);
            }
            let began = self.inner.system.now();
            let facts = self.inner.facts().await?;
            let took = self.inner.system.now().duration_since(began).unwrap_or_default();
            // Only the first time counts, should the server ask twice.
            self.fact_generation.get_or_init(|| took);
            self.client.submit_facts(&SubmitFacts { check_in, facts }).await.map_err(RunError::CheckIn)
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(RunError::Cancelled),
            reply = asked => reply,
        }
    }

    /// What a server is told to answer no older than, when that is not what is held.
    fn at_least(&self) -> Option<VersionCounter> {
        self.options.at_least.or_else(|| self.options.accept_older.then(VersionCounter::default))
    }

    /// Whether what is held was certainly made from the version that is asked for, or from one after it: what was published in an epoch holds all
    /// that was published in it before; after a promotion only a server knows.
    fn is_new_enough(&self, on_disk: Option<Held>) -> bool {
        let is_after = |held: Held, at_least: VersionCounter| {
            held.version.epoch == at_least.epoch && held.version.sequence >= at_least.sequence
        };
        on_disk.is_some_and(|held| self.options.at_least.is_none_or(|at_least| is_after(held, at_least)))
    }

    /// Refuses the cached catalog, which was asked for, where that is not known to hold a version that was asked for too.
    fn check_cached(&self, on_disk: Option<Held>) -> Result<(), RunError> {
        match (on_disk, self.options.at_least) {
            (Some(held), Some(at_least)) if !self.is_new_enough(on_disk) => Err(RunError::Config {
                reason: format!(
                    "the cached catalog is of version {}, and is not known to hold {at_least}: leave out --use-cached-catalog",
                    held.version
                ),
            }),
            _ => Ok(()),
        }
    }

    fn warn_if_unconfirmed(&mut self, unconfirmed_seconds: Option<u32>) {
        if let Some(seconds) = unconfirmed_seconds {
            self.warn(format!(
                "the server could not confirm for {seconds} s, with its primary, that this catalog is the live one"
            ));
        }
    }

    fn found_in_reply(&mut self, reply: CatalogReply, on_disk: Option<Held>, state: &State) -> Result<Found, RunError> {
        let accepted = on_disk.map(|held| held.version);
        match reply {
            CatalogReply::Current { code_id, version, unconfirmed_seconds } => {
                self.warn_if_unconfirmed(unconfirmed_seconds);
                self.check_forward(version, accepted)?;
                let Some(held) = on_disk else {
                    let reason = "it says that a catalog is current which this node does not have".to_owned();
                    return Err(RunError::Answer { reason });
                };
                let held = Held { code_id, version, ..held };
                let source = Source { held, answer: Answer::Current, cached: CachedCatalogStatus::NotUsed };
                Ok(Found { source, catalog: None, bytes: None, prior: None, cause: None })
            }
            CatalogReply::Catalog { catalog_id, code_id, version, unconfirmed_seconds, catalog: bytes } => {
                self.warn_if_unconfirmed(unconfirmed_seconds);
                self.check_forward(version, accepted)?;
                let catalog = Catalog::decode(&bytes, catalog_id)?;
                self.check_addressee(&catalog)?;
                let held = Held { catalog_id, code_id, version };
                let source = Source { held, answer: Answer::Catalog, cached: CachedCatalogStatus::NotUsed };
                let read = || state.catalogs.load(&self.inner.environment).map(|(_, catalog)| catalog);
                let prior = on_disk.and_then(|held| Some((held.catalog_id, read()?)));
                Ok(Found { source, catalog: Some(catalog), bytes: Some(bytes), prior, cause: None })
            }
            _ => Err(RunError::Answer { reason: "it asks for facts that it was given".to_owned() }),
        }
    }

    fn found_on_disk(
        &self,
        on_disk: Option<Held>,
        cached: CachedCatalogStatus,
        cause: Option<RunError>,
    ) -> Result<Found, RunError> {
        let Some(held) = on_disk else {
            return Err(RunError::NoCatalog { environment: self.inner.environment.clone(), source: cause.map(Box::new) });
        };
        Ok(Found { source: Source { held, answer: Answer::Cached, cached }, catalog: None, bytes: None, prior: None, cause })
    }

    /// Takes a catalog that no server gave: no code made it that this node knows of.
    fn found_given(&mut self, on_disk: Option<Held>, state: &State) -> Result<Found, RunError> {
        let (catalog, text) = self.given.as_mut().map(|given| (given.catalog.take(), given.text)).unwrap_or_default();
        let Some(catalog) = catalog else {
            return Err(RunError::Config { reason: "a catalog that is given is applied once".to_owned() });
        };
        self.check_addressee(&catalog)?;
        let cached = CachedCatalogStatus::NotUsed;
        match text {
            Some(text) => {
                if let Some(held) = state.catalogs.given_as(&self.inner.environment, text) {
                    let source = Source { held, answer: Answer::Given, cached };
                    return Ok(Found { source, catalog: Some(catalog), bytes: None, prior: None, cause: None });
                }
            }
            // Reading it from a text did so.
            None => catalog.validate()?,
        }
        let (catalog_id, bytes) = catalog.encode()?;
        let held = Held { catalog_id, code_id: Manifest::default().code_id(), version: VersionCounter::default() };
        let source = Source { held, answer: Answer::Given, cached };
        let is_damaged = || std::fs::read(state.catalogs.path_of(catalog_id)).ok().is_none_or(|held| held != bytes);
        let is_new = on_disk.is_none_or(|held| held.catalog_id != catalog_id || is_damaged());
        let read = || state.catalogs.load(&self.inner.environment).map(|(_, catalog)| catalog);
        let prior = on_disk.filter(|_| is_new).and_then(|held| Some((held.catalog_id, read()?)));
        Ok(Found { source, catalog: Some(catalog), bytes: is_new.then_some(bytes), prior, cause: None })
    }

    /// Refuses any catalog but the one that the caller wants.
    pub(super) fn check_only_catalog(&self, found: &Found) -> Result<(), RunError> {
        let found = found.source.held.catalog_id;
        match self.options.only_catalog {
            Some(wanted) if wanted != found => Err(RunError::OtherCatalog { found, wanted }),
            _ => Ok(()),
        }
    }

    /// The accepted version never goes back without an administrator's act.
    fn check_forward(&self, offered: VersionCounter, accepted: Option<VersionCounter>) -> Result<(), RunError> {
        let accepted = accepted.max(self.options.at_least);
        match accepted {
            Some(accepted) if offered < accepted && !self.options.accept_older => {
                Err(RunError::OlderVersion { offered, accepted })
            }
            _ => Ok(()),
        }
    }

    fn check_addressee(&self, catalog: &Catalog) -> Result<(), RunError> {
        if catalog.certname != self.inner.certname {
            let reason = format!("it is for node {}, this is {}", catalog.certname, self.inner.certname);
            return Err(RunError::Answer { reason });
        }
        if catalog.environment != self.inner.environment {
            let reason = format!("it is of environment {}, not {}", catalog.environment, self.inner.environment);
            return Err(RunError::Answer { reason });
        }
        Ok(())
    }
}

/// Holds a check-in at the server until the live code is another than the one held.
pub(crate) async fn wait_for_news<T: Transport>(inner: &Arc<Inner<T>>, wait: Duration) -> Result<bool, RunError> {
    let shared = Arc::clone(inner);
    let held = tokio::task::spawn_blocking(move || -> Result<Option<Held>, RunError> {
        if let Some(message) = lock::disabled(&shared.state_dir)? {
            return Err(RunError::Disabled { message });
        }
        let catalogs = CatalogCache::ensure(&shared.state_dir, &shared.certname)?;
        Ok(catalogs.held(&shared.environment))
    })
    .await
    .map_err(RunError::Lost)??;
    let client = Client::new(Arc::clone(&inner.transport));
    let reply = client.check_in(&check_in_message(inner, held, wait)).await.map_err(RunError::CheckIn)?;
    let same = |code_id: CodeId| held.is_some_and(|held| held.code_id == code_id);
    Ok(!matches!(reply, CatalogReply::Current { code_id, .. } if same(code_id)))
}

fn check_in_message<T: Transport>(inner: &Inner<T>, held: Option<Held>, wait: Duration) -> CheckIn {
    CheckIn {
        protocol: ProtocolVersion::CURRENT,
        certname: inner.certname.clone(),
        environment: inner.environment.clone(),
        held,
        features: match inner.compression.is_on(inner.transport.is_local()) {
            true => [PACKED_CATALOG, CATALOG_IN_COLUMNS].map(str::to_owned).to_vec(),
            false => Vec::new(),
        },
        wait_seconds: u32::try_from(wait.as_secs().min(MAX_WAIT_SECONDS)).unwrap_or(u32::MAX),
        at_least: None,
    }
}

//! Bringing a version: its manifest, the contents that are not here, then one switch.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::limits::MAX_MANIFEST_BYTES;
use direct_puppet_transport::protocol::{
    CodeId, Digest, EntryKind, Environment, Manifest, PublishedVersion, SyncManifest, SyncManifestReply, codec,
};
use direct_puppet_transport::{Client, Transport};

use super::confirm::Upstream;
use super::fetch::fetch;
use super::room::Unfetched;
use crate::blocking;
use crate::code::{Code, Version};
use crate::error::{ServerError, chain};
#[cfg(test)]
use crate::tests::sim::{Bug, is_planted};

/// The way to another server.
pub(super) type Way = Client<Arc<dyn Transport>>;

/// Why a version is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The primary has it: of no use to a server that was promoted since.
    News,
    /// It is taken over.
    TakenOver,
}

impl Upstream {
    /// Makes live here what is live at another server, unless what is here is newer. Nothing changes before all of it is here and
    /// verified.
    pub(super) async fn bring(&self, client: &Way, published: PublishedVersion, why: Why) -> Result<(), String> {
        if self.is_here(&published) {
            return Ok(());
        }
        // Before any lock: whoever collects holds publishes up, and waits for what is brought.
        self.hear(published.version.epoch).await?;
        let turn = self.brings.turn(&published.environment);
        let turn = turn.lock_owned().await;
        let _place = self.brings.places.acquire().await.map_err(|error| error.to_string())?;
        self.discard_leftovers().await;
        let any = Arc::clone(&self.leftovers.bringing).read_owned().await;
        let live = self.environments.live(&published.environment);
        if let Some(live) = &live {
            let (here, there) = (&live.version, &published);
            if here.version > there.version || (here.version == there.version && here.code_id == there.code_id) {
                return Ok(());
            }
            if here.version == there.version {
                return Err(format!(
                    "{} says that version {} of {} is {}, this server has it as {}: is that the right primary?",
                    client.transport().endpoint(),
                    there.version,
                    there.environment,
                    there.code_id,
                    here.code_id
                ));
            }
        }
        let base = live.map(|live| (live.version.code_id, live.manifest.clone()));
        let before = base.as_ref().map(|(_, base)| base.clone());
        let manifest = self.manifest(client, &published, base).await?;
        #[cfg(test)]
        if is_planted(Bug::SwitchBeforeVerify) {
            let code = Code::new(Version::told(published.clone(), 0), manifest.clone(), self.store.clone());
            self.environments.switch(code).map_err(|error| chain(&error))?;
        }
        let received = match self.contents(client, &manifest, before).await {
            Ok(received) => received,
            Err(unfetched) => {
                drop(any);
                self.leftovers.note(unfetched.of_no_use);
                self.discard_leftovers().await;
                return Err(unfetched.reason);
            }
        };
        let code = Code::new(Version::told(published, received), manifest, self.store.clone());
        let (environments, role) = (Arc::clone(&self.environments), Arc::clone(&self.hearing.role));
        let switch = move || {
            // Held to the end though nobody waits for it any more: until it is live nothing refers to what was fetched.
            let _held = (turn, any);
            for left_out in environments.left_out(&code.version)? {
                let Version { environment, version, code_id, message, .. } = left_out;
                tracing::warn!(%environment, %version, %code_id, message, "this publish was not taken over by the new primary");
            }
            environments.switch_forward(code, || if why == Why::News { role.leads() } else { None })
        };
        let switched = blocking::run(switch).await;
        switched.map_err(ServerError::from).and_then(|switched| switched).map_err(|error| chain(&error))
    }

    async fn discard_leftovers(&self) {
        let leftovers = Arc::clone(&self.leftovers);
        if let Err(error) = blocking::run(move || leftovers.discard(false)).await {
            tracing::warn!(%error, "what a full disk left stays");
        }
    }

    /// Whether just that is live here.
    pub(super) fn is_here(&self, published: &PublishedVersion) -> bool {
        let is_it = |live: &Arc<Code>| live.version.version == published.version && live.version.code_id == published.code_id;
        self.environments.live(&published.environment).as_ref().is_some_and(is_it)
    }

    /// Returns the manifest of a version, verified: from what differs when that adds up, else whole.
    async fn manifest(
        &self,
        client: &Way,
        published: &PublishedVersion,
        base: Option<(CodeId, Manifest)>,
    ) -> Result<Manifest, String> {
        let (environment, code_id) = (&published.environment, published.code_id);
        let base_id = base.as_ref().map(|(base_id, _)| *base_id);
        let manifest = match (self.ask_manifest(client, environment, code_id, base_id).await?, base) {
            (SyncManifestReply::Whole { manifest }, _) => manifest,
            (SyncManifestReply::Delta { removed, changed }, base) => {
                let base = base.map(|(_, base)| base).unwrap_or_default();
                if let Ok(manifest) = base.with_delta(removed, changed)
                    && manifest.code_id() == code_id
                {
                    return Ok(manifest);
                }
                tracing::warn!(%environment, %code_id, "what differs does not add up: the whole manifest is asked for");
                let SyncManifestReply::Whole { manifest } = self.ask_manifest(client, environment, code_id, None).await? else {
                    return Err(format!("{} gave no whole manifest of {environment}", client.transport().endpoint()));
                };
                manifest
            }
            (_, _) => return Err(format!("{} gave what is no manifest of {environment}", client.transport().endpoint())),
        };
        let manifest: Manifest = codec::decode(&manifest, MAX_MANIFEST_BYTES).map_err(|error| chain(&error))?;
        if manifest.code_id() == code_id {
            Ok(manifest)
        } else {
            Err(format!("the manifest of {environment} from {} does not add up to {code_id}", client.transport().endpoint()))
        }
    }

    async fn ask_manifest(
        &self,
        client: &Way,
        environment: &Environment,
        code_id: CodeId,
        base: Option<CodeId>,
    ) -> Result<SyncManifestReply, String> {
        let request = SyncManifest { replica: self.name.clone(), environment: environment.clone(), code_id, base };
        client.sync_manifest(&request).await.map_err(|error| chain(&error))
    }

    /// Fetches the contents that are not here, proves those that are, and makes all of them durable; returns how many were fetched. Those
    /// of `before`, which is live, were proved when they came; one that was damaged since is mended when that is found.
    async fn contents(&self, client: &Way, manifest: &Manifest, before: Option<Manifest>) -> Result<u64, Unfetched> {
        let (store, collecting, manifest) = (self.store.clone(), Arc::clone(&self.collecting), manifest.clone());
        let before = before.unwrap_or_default();
        let find = move || -> Result<BTreeMap<Digest, (u64, String)>, FsError> {
            let _turn = collecting.read().unwrap_or_else(PoisonError::into_inner);
            let mut wanted: BTreeMap<Digest, (u64, String)> = BTreeMap::new();
            for entry in manifest.changed_since(&before) {
                if let EntryKind::File { digest, size } = entry.kind {
                    wanted.entry(digest).or_insert_with(|| (size, entry.path.to_string()));
                }
            }
            let mut missing = BTreeMap::new();
            for (digest, file) in wanted {
                if !store.keep(&digest)? {
                    missing.insert(digest, file);
                }
            }
            Ok(missing)
        };
        let found = blocking::run(find).await.map_err(|error| error.to_string())?;
        let missing = found.map_err(|error| chain(&error))?;
        let received = match missing.is_empty() {
            true => 0,
            false => fetch(client, &self.name, &self.store, &missing).await?,
        };
        let store = self.store.clone();
        let synced = blocking::run(move || store.sync()).await.map_err(|error| error.to_string())?;
        synced.map(|()| received).map_err(|error| chain(&error).into())
    }
}

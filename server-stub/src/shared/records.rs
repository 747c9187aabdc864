//! Records in the store that are damaged: found by their checksum, and written again by a server that has what they told of.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use direct_puppet_transport::protocol::Digest;
use tokio::time::Instant;

use super::{FORMAT, Shared, VersionRecord, names};
use crate::blocking;
use crate::code::{Version, parts};
use crate::disk;
use crate::error::{ServerError, chain};
use crate::store::{Pointer, StoreError};

/// How often a server looks whether it can write a damaged record again.
const MEND_EVERY: Duration = Duration::from_secs(2);

/// How long a server leaves a damaged record of what is live to one that may have made something live after all that is told of.
const PATIENCE: Duration = Duration::from_secs(10);

/// When a damaged record was first seen, and when this server last tried to write it again.
pub(super) type Damaged = HashMap<String, (Instant, Option<Instant>)>;

/// Returns whether a record is not as it was written. What another program wrote in a format that is not known here is no damage.
pub(super) fn is_damaged(value: &Bytes) -> bool {
    disk::unchecked(value).is_none_or(|text| serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_err())
}

impl Shared {
    /// Decodes a version; one that is damaged is written again in the background, if this server can.
    pub(super) fn decode_or_mend(self: &Arc<Self>, name: &str, pointer: &Pointer) -> Result<VersionRecord, StoreError> {
        let decoded = self.decode_version(name, &pointer.value);
        if decoded.is_err() && is_damaged(&pointer.value) {
            self.mend(name, pointer);
        }
        decoded
    }

    fn mend(self: &Arc<Self>, name: &str, pointer: &Pointer) {
        let first = {
            let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let (first, last) = damaged.entry(name.to_owned()).or_insert((now, None));
            if last.is_some_and(|last| last.elapsed() < MEND_EVERY) {
                return;
            }
            *last = Some(now);
            *first
        };
        let (this, name, pointer) = (Arc::clone(self), name.to_owned(), pointer.clone());
        tokio::spawn(async move {
            match this.write_again(&name, &pointer, first).await {
                Ok(true) => {
                    this.damaged.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                    tracing::info!(name, "a damaged record was written again");
                }
                Ok(false) => {}
                Err(error) => tracing::warn!("{name} could not be written again: {}", chain(&error)),
            }
        });
    }

    /// Writes the record of a version again, when it is still that damaged one and this server has the version.
    async fn write_again(&self, name: &str, pointer: &Pointer, first_seen: Instant) -> Result<bool, ServerError> {
        // It may have been damaged on its way here.
        let found = self.store.pointers.get(name).await?;
        if !found.is_some_and(|found| found.generation == pointer.generation && is_damaged(&found.value)) {
            return Ok(false);
        }
        let (environments, wanted) = (Arc::clone(&self.environments), name.to_owned());
        let find = move || -> Result<Option<(Version, Digest)>, ServerError> {
            for last in environments.all_last() {
                let environment = &last.environment;
                let version = if wanted == names::live(environment) {
                    environments.live(environment).map(|live| live.version.clone())
                } else if wanted.starts_with(&names::versions(environment)) {
                    let history = environments.history(environment)?;
                    history.into_iter().find(|version| wanted == names::version(environment, version.version))
                } else {
                    continue;
                };
                let Some(version) = version else { return Ok(None) };
                let Some(manifest) = environments.manifest(environment, version.code_id)? else { return Ok(None) };
                return Ok(Some((version, Digest::of(&parts::encode(&manifest, &mut |_, _| Ok(()))?))));
            }
            Ok(None)
        };
        let Some((version, manifest)) = blocking::run(find).await?? else { return Ok(false) };
        if name.starts_with(names::ENVIRONMENTS) {
            let own = names::version(&version.environment, version.version);
            let told = self.store.pointers.names(&names::versions(&version.environment)).await?;
            let is_last = match told.iter().max() {
                Some(last) if *last > own => false,
                // Another server may have made live what it did not come to tell of.
                Some(last) if *last == own => first_seen.elapsed() >= PATIENCE,
                _ => true,
            };
            if !is_last {
                return Ok(false);
            }
        }
        let record = VersionRecord { format: FORMAT, version, manifest, delta: None };
        Ok(self.store.pointers.swap(name, Some(pointer.generation), Some(self.encode(&record)?)).await?)
    }
}

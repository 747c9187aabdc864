//! Manifests on the disk: `<data>/code/<environment>/manifests/<hex of the code_id>`, with parts that are contents.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use bytes::Bytes;
use direct_puppet_agent::fs::{ensure_private_dir, write_state};
use direct_puppet_agent::store::Store;
use direct_puppet_transport::protocol::{CodeId, Digest, Environment, Manifest};

use super::{Code, Differences, Environments, parts};
use crate::disk;
use crate::error::{ServerError, chain};

impl Environments {
    /// Returns what is in a code that was ever live; `None` when it is not there any more. Blocking.
    pub(crate) fn manifest(&self, environment: &Environment, code_id: CodeId) -> Result<Option<Manifest>, ServerError> {
        if let Some(live) = self.live(environment).filter(|live| live.version.code_id == code_id) {
            return Ok(Some(live.manifest.clone()));
        }
        read_manifest(&manifest_path(&self.dir(environment), code_id), code_id, &self.store)
    }

    pub(super) fn reread_manifest(&self, live: &Code) -> Result<Option<String>, ServerError> {
        let (environment, code_id) = (&live.version.environment, live.version.code_id);
        let path = manifest_path(&self.dir(environment), code_id);
        let read = || -> Result<(), ServerError> {
            for part in self.manifest_parts(environment, code_id)? {
                // Moved aside if it is damaged, so that it is written again.
                self.store.has_verified(&part)?;
            }
            let missing = || ServerError::Damaged { path: path.clone(), reason: "it is missing".to_owned() };
            read_manifest(&path, code_id, &self.store)?.ok_or_else(missing).map(drop)
        };
        match read() {
            Ok(()) => Ok(None),
            // Written again as it is in memory, if that is still what it was.
            Err(error @ ServerError::Damaged { .. }) if live.manifest.code_id() == code_id => {
                self.keep_manifest(environment, code_id, &live.manifest)?;
                Ok(Some(format!("{}; it was written again", chain(&error))))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the contents that a manifest is written in. Blocking.
    pub(crate) fn manifest_parts(&self, environment: &Environment, code_id: CodeId) -> Result<Vec<Digest>, ServerError> {
        let path = manifest_path(&self.dir(environment), code_id);
        let Some(bytes) = disk::read(&path)? else { return Ok(Vec::new()) };
        parts::parts(&bytes).map_err(|reason| ServerError::Damaged { path, reason })
    }

    /// Says what differs between two codes that were ever live; `None` when one is not there any more. Takes memory in proportion to it.
    /// Nothing is proved but the parts of manifests that are read. Blocking.
    pub(crate) fn differences(
        &self,
        environment: &Environment,
        base: CodeId,
        code_id: CodeId,
    ) -> Result<Option<Differences>, ServerError> {
        let dir = self.dir(environment);
        let path = manifest_path(&dir, code_id);
        let (Some(before), Some(after)) = (disk::read(&manifest_path(&dir, base))?, disk::read(&path)?) else { return Ok(None) };
        let found = parts::differences(&before, &after, |digest| read_part(&self.store, digest));
        found.map(Some).map_err(|reason| ServerError::Damaged { path, reason })
    }

    /// Writes the manifest of a code: what the live one does not have of it. Blocking.
    pub(crate) fn keep_manifest(
        &self,
        environment: &Environment,
        code_id: CodeId,
        manifest: &Manifest,
    ) -> Result<(), ServerError> {
        let dir = self.dir(environment);
        let _turn = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        ensure_private_dir(&dir.join("manifests"))?;
        let durable: HashSet<Digest> = match self.live(environment) {
            // What is damaged there is just written again.
            Some(live) => self.manifest_parts(environment, live.version.code_id).unwrap_or_default().into_iter().collect(),
            None => HashSet::new(),
        };
        let mut new = Vec::new();
        let mut keep = |digest, bytes: Vec<u8>| -> Result<(), ServerError> {
            if !durable.contains(&digest) || !self.store.has(&digest) {
                new.extend(self.store.put_bytes(&bytes)?.is_new.then_some(digest));
            }
            Ok(())
        };
        let written = parts::encode(manifest, &mut keep).and_then(|bytes| {
            self.store.sync()?;
            Ok(write_state(&manifest_path(&dir, code_id), &bytes, 0o600)?)
        });
        if written.as_ref().is_err_and(|error| disk::is_full(error)) {
            // They would leave no room for a version that fits.
            new.iter().try_for_each(|digest| self.store.discard(digest))?;
        }
        written
    }
}

pub(super) fn manifest_path(dir: &Path, code_id: CodeId) -> PathBuf {
    dir.join("manifests").join(code_id.digest().to_hex())
}

/// Reads a manifest and checks that it adds up to its code. Blocking.
pub(super) fn read_manifest(path: &Path, code_id: CodeId, store: &Store) -> Result<Option<Manifest>, ServerError> {
    let damaged = |reason: String| ServerError::Damaged { path: path.to_owned(), reason };
    let Some(bytes) = disk::read(path)? else { return Ok(None) };
    let manifest = parts::decode(&bytes, |digest| read_part(store, digest)).map_err(damaged)?;
    if manifest.code_id() != code_id {
        return Err(damaged("it does not add up to its code_id: publish again".to_owned()));
    }
    Ok(Some(manifest))
}

/// Reads a part of a manifest, verified. Blocking.
fn read_part(store: &Store, digest: &Digest) -> Result<Bytes, String> {
    match store.read(digest, parts::MAX_PART_BYTES) {
        Ok(Some(part)) => Ok(part),
        Ok(None) => Err(format!("its part {digest} is missing: publish again")),
        Err(error) => Err(chain(&error)),
    }
}

//! Everything that was ever published: named, compared, made live again, written out, checked, collected.
//!
//! A version's manifest lies at `<data>/code/<environment>/manifests/<hex of its code_id>` until it is collected; what was
//! collected is listed in `<data>/code/<environment>/collected.jsonl`, so that its absence is no damage.

mod checkout;
mod collect;
mod diff;
mod explain;
mod rollback;
mod verify;

use std::fmt;
use std::str::FromStr;
use std::sync::PoisonError;

use direct_puppet_transport::protocol::{CodeId, Environment, Manifest, VersionCounter};
use serde::{Deserialize, Serialize};

use crate::code::Version;
use crate::error::ServerError;
use crate::server::Server;
use crate::shared;

pub(crate) use collect::fresh;
pub use collect::{CollectRequest, Collected, InStore};
pub use diff::{Change, Difference};
pub use explain::{CatalogOrigin, ExplainRequest, Explanation};
pub use rollback::RollbackRequest;
pub use verify::{Problem, Verified};

/// How an administrator names a version: `live`, a counter as `1.7`, or a `code_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum VersionName {
    /// The one that is live.
    Live,
    /// By where it stands in the history.
    Counter(VersionCounter),
    /// The last one with this code.
    Code(CodeId),
}

/// Why a text names no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no version: write \"live\", a counter as 1.7, or a code_id as blake3:…")]
pub struct VersionNameError {
    text: String,
}

impl FromStr for VersionName {
    type Err = VersionNameError;

    fn from_str(text: &str) -> Result<Self, VersionNameError> {
        if text == "live" {
            return Ok(Self::Live);
        }
        let counter = text.parse().ok().map(Self::Counter);
        counter.or_else(|| text.parse().ok().map(Self::Code)).ok_or_else(|| VersionNameError { text: text.to_owned() })
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Counter(counter) => counter.fmt(f),
            Self::Code(code_id) => code_id.fmt(f),
        }
    }
}

impl TryFrom<String> for VersionName {
    type Error = VersionNameError;

    fn try_from(text: String) -> Result<Self, VersionNameError> {
        text.parse()
    }
}

impl From<VersionName> for String {
    fn from(name: VersionName) -> Self {
        name.to_string()
    }
}

/// A version, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The version.
    #[serde(flatten)]
    pub version: Version,
    /// Whether a promotion has left it out: no node is given it any more.
    #[serde(default)]
    pub is_left_out: bool,
}

impl Server {
    /// Returns every version of an environment, or of all, oldest first. Blocking.
    ///
    /// # Errors
    ///
    /// When the history cannot be read.
    pub fn versions(&self, environment: Option<&Environment>) -> Result<Vec<Listed>, ServerError> {
        let (mut versions, orphans) = (Vec::new(), self.orphans());
        for live in &self.environments.all_last() {
            if environment.is_none_or(|wanted| *wanted == live.environment) {
                self.learn(&live.environment)?;
                let is_orphan = orphans.contains(&live.environment);
                let history = self.environments.history(&live.environment)?.into_iter();
                versions.extend(history.map(|version| {
                    let is_left_out = is_orphan || version.is_left_out_of(live);
                    Listed { version, is_left_out }
                }));
            }
        }
        Ok(versions)
    }

    /// Finds a version of an environment. Blocking.
    ///
    /// # Errors
    ///
    /// When there is none of that name, or the history cannot be read.
    pub fn find_version(&self, environment: &Environment, name: VersionName) -> Result<Version, ServerError> {
        let live = self.environments.last(environment);
        let live = live.ok_or_else(|| ServerError::NoVersion { environment: environment.clone(), name: name.to_string() })?;
        let is_it = |version: &Version| match name {
            VersionName::Live => version.version == live.version,
            VersionName::Counter(counter) => version.version == counter,
            VersionName::Code(code_id) => version.code_id == code_id,
        };
        self.learn(environment)?;
        let found = self.environments.history(environment)?.into_iter().rev().find(is_it);
        found.ok_or_else(|| ServerError::NoVersion { environment: environment.clone(), name: name.to_string() })
    }

    /// Finds a version with what is in it. Blocking.
    pub(crate) fn find_manifest(&self, environment: &Environment, name: VersionName) -> Result<(Version, Manifest), ServerError> {
        let version = self.find_version(environment, name)?;
        let found = self.environments.manifest(environment, version.code_id);
        if matches!(found, Err(ServerError::Damaged { .. })) {
            self.mending.want_manifest(environment, version.code_id);
        }
        let mut manifest = found?;
        if let (None, Some(shared)) = (&manifest, &self.shared) {
            manifest = shared::wait(shared.manifest(environment, version.code_id))?;
            if let Some(manifest) = &manifest {
                // No collection takes its parts before they are named.
                let _turn = self.collecting.read().unwrap_or_else(PoisonError::into_inner);
                self.environments.keep_manifest(environment, version.code_id, manifest)?;
            }
        }
        let collected =
            || ServerError::NoVersion { environment: environment.clone(), name: format!("{name} any more (it was collected)") };
        Ok((version, manifest.ok_or_else(collected)?))
    }

    /// Brings the contents of a version that are not here, where servers share a store. Blocking.
    fn bring_contents(&self, manifest: &Manifest) -> Result<(), ServerError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        shared::wait(shared.bring(manifest))
    }
}

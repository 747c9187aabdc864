//! Entries as Puppet describes files.

use direct_puppet_agent::puppet_report::iso8601;
use direct_puppet_transport::protocol::{EntryKind, Environment, Manifest, ManifestEntry, TreePath};
use serde::Serialize;

use super::content;
use crate::code::links;
use crate::puppet_api::answer::Failure;
use crate::puppet_api::checksum::{Checksums, Kind};

/// The mode of everything whose own is not asked for: what Puppet says then.
const PLAIN_MODE: u32 = 0o644;

/// Whether the modes of published files count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::puppet_api) enum Permissions {
    Ignored,
    Used,
}

impl Permissions {
    /// Reads `source_permissions`; what is not said is `ignore`.
    pub(in crate::puppet_api) fn of(text: Option<&str>) -> Self {
        if matches!(text, Some("use" | "use_when_creating")) { Self::Used } else { Self::Ignored }
    }
}

/// One file, as Puppet describes it.
#[derive(Debug, Serialize)]
pub(in crate::puppet_api) struct Described {
    /// An absolute path, as agents want it. It is below the code as it was published, which is nowhere on this server's disk.
    path: String,
    pub(in crate::puppet_api) relative_path: Option<String>,
    links: &'static str,
    owner: u32,
    group: u32,
    mode: u32,
    checksum: Checksum,
    #[serde(rename = "type")]
    kind: &'static str,
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::puppet_api) source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::puppet_api) content_uri: Option<String>,
}

#[derive(Debug, Serialize)]
struct Checksum {
    #[serde(rename = "type")]
    kind: &'static str,
    value: Option<String>,
}

/// How files are described.
pub(in crate::puppet_api) struct Describe<'a> {
    pub(in crate::puppet_api) manifest: &'a Manifest,
    pub(in crate::puppet_api) environment: &'a Environment,
    pub(in crate::puppet_api) checksums: &'a Checksums,
    pub(in crate::puppet_api) kind: Kind,
    pub(in crate::puppet_api) permissions: Permissions,
    pub(in crate::puppet_api) follows: bool,
    /// When the code was published, in seconds since 1970 UTC.
    pub(in crate::puppet_api) time: u64,
}

impl Describe<'_> {
    /// Describes an entry of a listing of `root`, whose path is relative to it.
    pub(in crate::puppet_api) fn listed(
        &self,
        entry: &ManifestEntry,
        root: &ManifestEntry,
    ) -> Result<Option<Described>, Failure> {
        let relative = if entry.path.is_root() { Some(".") } else { utf8(&entry.path) };
        let Some(relative) = relative else { return Ok(None) };
        let whole = root.path.join(&entry.path).ok();
        let at = ManifestEntry { path: whole.unwrap_or_default(), ..entry.clone() };
        self.entry(&at, root, Some(relative))
    }

    /// Describes an entry, whose path is that in the manifest; `root` is what it was found below. `None` where Puppet's format has no
    /// words for it: a path that is no UTF-8, or a link that leads nowhere and was to be followed.
    pub(in crate::puppet_api) fn entry(
        &self,
        entry: &ManifestEntry,
        root: &ManifestEntry,
        relative: Option<&str>,
    ) -> Result<Option<Described>, Failure> {
        let Some(path) = utf8(&root.path) else { return Ok(None) };
        let (kind, checksum, destination) = match &entry.kind {
            EntryKind::Directory => ("directory", self.timed(Kind::Ctime), None),
            EntryKind::File { digest, .. } => ("file", self.summed(self.checksums.of(digest, self.kind)?), None),
            EntryKind::Link { .. } if self.follows => return Ok(None),
            EntryKind::Link { target } => {
                let Ok(target) = std::str::from_utf8(target) else { return Ok(None) };
                // As in Puppet, the checksum of a link is that of the file which it leads to, if there is one.
                let checksum = match content::file_of(links::followed(self.manifest, entry)) {
                    Some(digest) => self.summed(self.checksums.of(&digest, self.kind)?),
                    None => Checksum { kind: self.kind.name(), value: None },
                };
                ("link", checksum, Some(target.to_owned()))
            }
        };
        let mode = match (self.permissions, &entry.kind) {
            (Permissions::Ignored, _) => PLAIN_MODE,
            (Permissions::Used, EntryKind::Link { .. }) => 0o777,
            (Permissions::Used, _) => entry.mode,
        };
        Ok(Some(Described {
            path: format!("/environments/{}/{path}", self.environment),
            relative_path: relative.map(str::to_owned),
            links: if self.follows { "follow" } else { "manage" },
            owner: 0,
            group: 0,
            mode,
            checksum,
            kind,
            destination,
            source: None,
            content_uri: None,
        }))
    }

    /// Describes the directory of plugins where no module has any.
    pub(in crate::puppet_api) fn nothing(&self) -> Described {
        Described {
            path: format!("/environments/{}", self.environment),
            relative_path: Some(".".to_owned()),
            links: if self.follows { "follow" } else { "manage" },
            owner: 0,
            group: 0,
            mode: 0o755,
            checksum: self.timed(Kind::Ctime),
            kind: "directory",
            destination: None,
            source: None,
            content_uri: None,
        }
    }

    fn summed(&self, sum: String) -> Checksum {
        match self.kind {
            Kind::Mtime | Kind::Ctime => self.timed(self.kind),
            kind => Checksum { kind: kind.name(), value: Some(format!("{{{}}}{sum}", kind.name())) },
        }
    }

    /// The time when the code was published, as Ruby writes it: `2026-11-22 12:41:02 +0000`.
    fn timed(&self, kind: Kind) -> Checksum {
        let nanos = i64::try_from(self.time).unwrap_or_default().saturating_mul(1_000_000_000);
        let iso = iso8601(nanos);
        let (day, time) = (iso.get(..10).unwrap_or_default(), iso.get(11..19).unwrap_or_default());
        Checksum { kind: kind.name(), value: Some(format!("{{{}}}{day} {time} +0000", kind.name())) }
    }
}

/// Returns a path as text; `None`, which is logged, where it is none.
fn utf8(path: &TreePath) -> Option<&str> {
    let text = std::str::from_utf8(path.as_bytes()).ok();
    if text.is_none() {
        tracing::warn!(%path, "a path that is no UTF-8 cannot be told to agents of Puppet");
    }
    text
}

//! How long what administrators write may be: it goes with every version, again and again, to every other server.

use direct_puppet_transport::protocol::limits::MAX_MANIFEST_BYTES;
use direct_puppet_transport::protocol::{EntryKind, Manifest, ManifestEntry, codec};

use super::PublishRequest;
use super::revision::MAX_REVISION_BYTES;
use crate::code::Author;
use crate::error::ServerError;

/// Longest message, and longest reason for a pause: what fits on a page.
pub(crate) const MAX_MESSAGE_BYTES: usize = 4096;

/// Longest name, and longest address: mail allows no more than 254.
const MAX_AUTHOR_BYTES: usize = 256;

/// Longest id of a request: room for a URL.
const MAX_REQUEST_ID_BYTES: usize = 256;

/// What the answer to a replica needs around a manifest.
const REPLY_BYTES: u64 = 64;

/// Refuses a text that is longer than `limit` bytes; `field` is its name in the request.
pub(crate) fn check_text(field: &'static str, text: &str, limit: usize) -> Result<(), ServerError> {
    match text.len() {
        bytes if bytes > limit => Err(ServerError::TooLong { field, bytes, limit }),
        _ => Ok(()),
    }
}

/// Refuses a message, or an author, that is too long.
pub(crate) fn check_words(message: &str, author: &Author) -> Result<(), ServerError> {
    check_text("message", message, MAX_MESSAGE_BYTES)?;
    check_text("author.name", &author.name, MAX_AUTHOR_BYTES)?;
    check_text("author.email", &author.email, MAX_AUTHOR_BYTES)
}

/// Refuses a request in which anything is too long, or an id that is none.
pub(super) fn check_request(request: &PublishRequest) -> Result<(), ServerError> {
    check_words(&request.message, &request.author)?;
    check_text("revision", request.revision.as_deref().unwrap_or_default(), MAX_REVISION_BYTES)?;
    if request.if_live.is_some() && request.environments.len() != 1 {
        return Err(ServerError::IfLiveOfOne);
    }
    check_request_id(request.request_id.as_deref())
}

/// Refuses an id of a request that is too long, or none.
pub(crate) fn check_request_id(request_id: Option<&str>) -> Result<(), ServerError> {
    if request_id == Some("") {
        // As a variable that is not set: every request after the first would be taken for the same.
        return Err(ServerError::EmptyRequestId);
    }
    check_text("request_id", request_id.unwrap_or_default(), MAX_REQUEST_ID_BYTES)
}

/// Refuses a manifest that no replica would take.
pub(super) fn check_manifest(manifest: &Manifest) -> Result<(), ServerError> {
    check_manifest_bytes(manifest, MAX_MANIFEST_BYTES - REPLY_BYTES)
}

/// Bytes that an entry takes at the most beside its path and target: its names, numbers and a digest.
const ENTRY_BYTES: usize = 160;

fn check_manifest_bytes(manifest: &Manifest, limit: u64) -> Result<(), ServerError> {
    let target = |kind: &EntryKind| if let EntryKind::Link { target } = kind { target.len() } else { 0 };
    let most = |entry: &ManifestEntry| entry.path.as_bytes().len() + target(&entry.kind) + ENTRY_BYTES;
    if manifest.entries().map(most).sum::<usize>() as u64 <= limit {
        return Ok(());
    }
    let bytes = codec::encoded_len(manifest)?;
    if bytes <= limit {
        return Ok(());
    }
    let problem = format!(
        "its manifest would be {bytes} bytes long, of which servers exchange {limit}: publish fewer files, or in several environments"
    );
    Err(ServerError::Unpublishable { paths: vec![problem] })
}

#[cfg(test)]
mod tests {
    use direct_puppet_transport::protocol::limits::MAX_SYNC_CONFIRM_BYTES;
    use direct_puppet_transport::protocol::{Answered, Digest, Rollout, SyncConfirmed, SyncManifestReply, VersionCounter};

    use super::*;
    use crate::code::{MOST_TOLD, Version};

    #[test]
    fn a_manifest_is_refused_that_is_too_long_for_an_answer() {
        let entry = ManifestEntry {
            path: "site.yaml".parse().unwrap(),
            mode: 0o644,
            kind: EntryKind::File { digest: Digest::of(b"x"), size: 1 },
        };
        let manifest = Manifest::new(vec![entry]).unwrap();
        let bytes = codec::encode(&manifest).unwrap();
        let length = bytes.len() as u64;
        check_manifest_bytes(&manifest, length).unwrap();
        let error = check_manifest_bytes(&manifest, length - 1).unwrap_err();
        assert_eq!(error.code(), "unpublishable");
        assert!(error.to_string().contains(&format!("{length} bytes")), "{error}");
        let reply = codec::encode(&SyncManifestReply::Whole { manifest: bytes.into() }).unwrap();
        assert!(reply.len() as u64 <= length + REPLY_BYTES);
    }

    #[test]
    fn an_entry_takes_no_more_than_is_counted_for_it() {
        let (path, target) = ("p".repeat(200), vec![b't'; 4000]);
        let digest = Digest::by(direct_puppet_transport::protocol::Algorithm::Sha256, b"x");
        for kind in [EntryKind::File { digest, size: u64::MAX }, EntryKind::Directory, EntryKind::Link { target: target.clone() }]
        {
            let lengths = path.len() + if matches!(kind, EntryKind::Link { .. }) { target.len() } else { 0 };
            let entry = ManifestEntry { path: path.parse().unwrap(), mode: u32::MAX, kind };
            assert!(codec::encode(&entry).unwrap().len() <= lengths + ENTRY_BYTES, "{entry:?}");
        }
    }

    /// As many environments as a large site has, each with the longest of everything.
    #[test]
    fn what_is_allowed_fits_into_a_confirmation() {
        const ENVIRONMENTS: usize = 2_000;
        let version = Version {
            environment: "e".repeat(50).parse().unwrap(),
            code_id: Digest::of(b"x").to_string().parse().unwrap(),
            version: VersionCounter { epoch: u64::MAX, sequence: u64::MAX },
            time_unix_seconds: u64::MAX,
            author: Author { name: "n".repeat(MAX_AUTHOR_BYTES), email: "e".repeat(MAX_AUTHOR_BYTES) },
            message: "m".repeat(MAX_MESSAGE_BYTES + 100),
            revision: Some("r".repeat(MAX_REVISION_BYTES)),
            request_id: Some("i".repeat(MAX_REQUEST_ID_BYTES)),
            files: u64::MAX,
            new_contents: u64::MAX,
            lineage: vec![VersionCounter { epoch: u64::MAX, sequence: u64::MAX }; 20],
        };
        let rollout = Rollout { per_second: u32::MAX, paused: Some("p".repeat(MAX_MESSAGE_BYTES)) };
        let answered = Answered {
            at: version.version,
            request: Digest::of(b"i"),
            code_id: version.code_id,
            version: version.version,
            is_changed: true,
            files: u64::MAX,
            new_contents: u64::MAX,
        };
        let answered = [(version.environment.clone(), vec![answered; MOST_TOLD])].into();
        let confirmed =
            SyncConfirmed { live: vec![version.published(); ENVIRONMENTS], rollout, epoch: u64::MAX, answered, is_part: true };
        let length = codec::encode(&confirmed).unwrap().len() as u64;
        assert!(length <= MAX_SYNC_CONFIRM_BYTES, "{length} bytes");
    }
}

//! Filebuckets: what files held before agents changed them.
//!
//! A node has a bucket of its own, beside what else is known of it, and finds nothing in it that it has not put there. What is put in is
//! compared with its digest. When a bucket is full its oldest contents go.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use direct_puppet_agent::fs::{FsError, ensure_private_dir, write_state};
use hyper::{Method, Response};

use super::answer::{self, BYTES, Failure};
use super::checksum::{Kind, Summing};
use super::query::short;
use super::table::Caller;
use super::{Api, Asked};
use crate::blocking;
use crate::disk::on_disk;
use crate::error::ServerError;
use crate::listen::RouteBody;
use crate::nodes::Room;

/// How much a bucket holds, in bytes.
const MAX_BUCKET_BYTES: u64 = 1 << 30;

/// How many contents it holds.
const MAX_CONTENTS: usize = 20_000;

/// Parameters of requests that look into a bucket as people do; agents send none of them.
const FOR_PEOPLE: [&str; 4] = ["diff_with", "list_all", "fromdate", "todate"];

/// The digests by which buckets know contents.
const KINDS: [Kind; 6] = [Kind::Md5, Kind::Sha1, Kind::Sha224, Kind::Sha256, Kind::Sha384, Kind::Sha512];

impl Api {
    pub(super) async fn bucket(&self, asked: Asked) -> Result<Response<RouteBody>, Failure> {
        let Caller::Somebody(Some(certname)) = &asked.caller else {
            return Err(Failure::forbidden("a bucket is a node's own: ask with its certificate"));
        };
        if let Some(name) = FOR_PEOPLE.iter().find(|name| asked.parameters.get(name).is_some()) {
            return Err(Failure::bad_request(format!("{name} is not served here: compare the contents themselves")));
        }
        let (kind, digest) = read_argument(&asked.argument)?;
        let nodes = Arc::clone(&self.server.nodes);
        let (method, body, certname) = (asked.method, asked.body, certname.clone());
        let work = move || -> Result<Response<RouteBody>, Failure> {
            let node = nodes.node_dir(&certname);
            let dir = node.join("bucket");
            let path = dir.join(format!("{}-{digest}", kind.name()));
            if method == Method::PUT {
                let mut summing = Summing::new(kind);
                summing.update(&body);
                if summing.finish() != digest {
                    return Err(Failure::bad_request(format!("what was sent does not have the {} {digest}", kind.name())));
                }
                if !path.exists() {
                    let taken = nodes.room().take(&node, body.len() as u64)?;
                    if nodes.in_turn(&certname, || put(nodes.room(), &node, &path, &body))? {
                        taken.written();
                    }
                }
                return Ok(answer::plain(BYTES, Bytes::new()));
            }
            let content = if method == Method::HEAD { path.exists().then(Bytes::new) } else { read(&path)? };
            content
                .map(|content| answer::plain(BYTES, content))
                .ok_or_else(|| Failure::not_found("this node's bucket does not have it"))
        };
        blocking::run(work).await.map_err(|error| Failure::internal(&error))?
    }
}

/// Reads `<algorithm>/<digest>`, with the path of a file behind it or not: nobody needs that to find a content again.
fn read_argument(argument: &str) -> Result<(Kind, String), Failure> {
    let mut parts = argument.splitn(3, '/');
    let (name, digest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let kind = Kind::from_name(name).filter(|kind| KINDS.contains(kind));
    let kind = kind.ok_or_else(|| Failure::bad_request(format!("{} is no digest of a bucket: use sha256", short(name))))?;
    let is_hex = digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex || digest.len() != Summing::new(kind).finish().len() {
        return Err(Failure::bad_request(format!("{} is no {name} in lower-case hexadecimal", short(digest))));
    }
    Ok((kind, digest.to_owned()))
}

fn read(path: &Path) -> Result<Option<Bytes>, Failure> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content.into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ServerError::from(FsError::new(path, "read", error)).into()),
    }
}

/// Puts a content in the bucket of the node in `node`; returns whether it was not there.
fn put(room: &Room, node: &Path, path: &Path, content: &Bytes) -> Result<bool, Failure> {
    if path.exists() {
        return Ok(false);
    }
    // The node's own directory may not be there yet.
    let dir = node.join("bucket");
    for dir in [node, &dir] {
        ensure_private_dir(dir).map_err(ServerError::from)?;
    }
    make_room(room, node, &dir, content.len() as u64);
    write_state(path, content, 0o600).map_err(ServerError::from)?;
    Ok(true)
}

/// Removes the oldest contents until there is room for `bytes`.
fn make_room(room: &Room, node: &Path, dir: &Path, bytes: u64) {
    let mut held: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Ok(metadata) = entry.metadata() {
            held.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), on_disk(metadata.len()), entry.path()));
        }
    }
    let mut total: u64 = held.iter().map(|(_, size, _)| size).sum();
    held.sort();
    let mut count = held.len();
    for (_, size, path) in held {
        if total + on_disk(bytes) <= MAX_BUCKET_BYTES && count < MAX_CONTENTS {
            return;
        }
        match fs::remove_file(&path) {
            Ok(()) => {
                tracing::info!(path = %path.display(), "a bucket is full: its oldest content goes");
                room.removed(node, size);
                (total, count) = (total - size, count - 1);
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "an old content of a bucket stays"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_name_contents() {
        let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(read_argument(&format!("sha256/{sha256}/etc/motd")).unwrap(), (Kind::Sha256, sha256.to_owned()));
        assert!(read_argument("md5/d41d8cd98f00b204e9800998ecf8427e").is_ok());
        for bad in [
            "",
            "sha256",
            "sha256/..",
            "sha256/../../x",
            "mtime/1",
            "sha256lite/00",
            "md5/D41D8CD98F00B204E9800998ECF8427E",
            "x/y",
        ] {
            assert!(read_argument(bad).is_err(), "{bad}");
        }
    }
}

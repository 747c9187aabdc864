//! Filebuckets: what files held before agents changed them.
//!
//! A node has a bucket of its own, beside what else is known of it, and finds nothing in it that it has not put there. What is put in is
//! compared with its digest, and what is given out of it is again: what the disk has damaged is moved aside, as `<name>.damaged`, and is there
//! no more until it is put in anew. When a bucket is full its oldest contents go.

use std::fs;
use std::io;
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
use crate::error::{ServerError, chain};
use crate::listen::RouteBody;
use crate::nodes::{Nodes, Room};

/// Where a node's bucket lies in its directory.
const BUCKET: &str = "bucket";

/// The end of the name of a content that was damaged.
const DAMAGED: &str = "damaged";

/// The error of a disk that cannot read, as the kernel numbers it.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

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
            let path = node.join(BUCKET).join(format!("{}-{digest}", kind.name()));
            if method == Method::PUT {
                if !has_digest(&body, kind, &digest) {
                    return Err(Failure::bad_request(format!("what was sent does not have the {} {digest}", kind.name())));
                }
                if read(&path, kind, &digest)?.is_none() {
                    let taken = nodes.room().take(&node, body.len() as u64)?;
                    if nodes.in_turn(&certname, || put(nodes.room(), &node, &path, &body))? {
                        taken.written();
                    }
                }
                return Ok(answer::plain(BYTES, Bytes::new()));
            }
            let content = read(&path, kind, &digest)?;
            content
                .map(|content| if method == Method::HEAD { Bytes::new() } else { content })
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

/// Reads a content; what does not have its digest is moved aside, and is not there.
fn read(path: &Path, kind: Kind, digest: &str) -> Result<Option<Bytes>, ServerError> {
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let read = |path: &Path| match fs::read(path) {
        Ok(content) => Ok(Some(content).filter(|content| has_digest(content, kind, digest))),
        // The disk cannot give it any more.
        Err(error) if error.raw_os_error() == Some(EIO) => Ok(None),
        Err(error) => Err(error),
    };
    let unreadable = |error| ServerError::from(FsError::new(path, "read", error));
    match read(path) {
        Ok(Some(content)) => return Ok(Some(content.into())),
        Ok(None) => {}
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    }
    let aside = path.with_extension(DAMAGED);
    let moved = fs::rename(path, &aside).and_then(|()| match read(&aside)? {
        // It was put in anew meanwhile.
        Some(content) => fs::rename(&aside, path).map(|()| Some(content)),
        None => Ok(None),
    });
    match moved {
        Ok(None) => tracing::error!(path = %path.display(), "a content of a bucket is damaged and moved aside"),
        Ok(Some(content)) => return Ok(Some(content.into())),
        // Who came at the same time was faster: what is there now is as he left it.
        Err(error) if is_gone(&error) => match read(path) {
            Ok(content) => return Ok(content.map(Bytes::from)),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(unreadable(error)),
        },
        Err(error) => return Err(FsError::new(path, "move aside the damaged content", error).into()),
    }
    Ok(None)
}

fn has_digest(content: &[u8], kind: Kind, digest: &str) -> bool {
    let mut summing = Summing::new(kind);
    summing.update(content);
    summing.finish() == digest
}

/// Reads every content of every bucket; those that are damaged are moved aside. Returns what is wrong. Blocking.
pub(crate) fn damaged_contents(nodes: &Nodes) -> Result<Vec<String>, ServerError> {
    let mut damaged = Vec::new();
    for node in nodes.dirs()? {
        for entry in fs::read_dir(node.join(BUCKET)).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            // What has another name was moved aside, or is being written.
            let Some((kind, digest)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
            let Some(kind) = Kind::from_name(kind).filter(|kind| KINDS.contains(kind)) else { continue };
            let is_digest = digest.len() == Summing::new(kind).finish().len();
            if !is_digest {
                continue;
            }
            match read(&path, kind, digest) {
                Ok(Some(_)) => {}
                // One that goes meanwhile, for others to have room, is no damage.
                Ok(None) if path.with_extension(DAMAGED).exists() => {
                    damaged.push(format!("{}: a content of a node's bucket is moved aside: it has that no more", path.display()));
                }
                Ok(None) => {}
                Err(error) => damaged.push(chain(&error)),
            }
        }
    }
    Ok(damaged)
}

/// Puts a content in the bucket of the node in `node`; returns whether it was not there.
fn put(room: &Room, node: &Path, path: &Path, content: &Bytes) -> Result<bool, Failure> {
    if path.exists() {
        return Ok(false);
    }
    // The node's own directory may not be there yet.
    let dir = node.join(BUCKET);
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

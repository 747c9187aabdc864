//! The content of one staged file: copied, verified, labelled.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use direct_puppet_transport::protocol::Digest;
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, openat, statat};
use rustix::io::Errno;

use super::{FileKind, Stat};

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// The extended attribute with a file's SELinux label.
const LABEL: &str = "security.selinux";

/// Longest label that is kept; real ones have some dozens of bytes.
const MAX_LABEL_BYTES: usize = 4096;

pub(super) enum Source {
    Bytes(Bytes),
    File(File),
}

/// The content had another digest; inside an `io::Error`.
#[derive(Debug, thiserror::Error)]
#[error("content has digest {actual}, wanted is {wanted}")]
pub(super) struct Mismatch {
    wanted: Digest,
    actual: Digest,
}

/// Copies and hashes in one pass.
pub(super) fn copy(source: Source, target: &mut File, wanted: Digest) -> io::Result<()> {
    let mut hasher = wanted.verifier();
    match source {
        Source::Bytes(bytes) => {
            hasher.update(&bytes);
            target.write_all(&bytes)?;
        }
        Source::File(mut file) => {
            let length = file.metadata()?.len();
            let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(length).unwrap_or(COPY_BYTES).saturating_add(1))];
            loop {
                let count = match file.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => other?,
                };
                if count == 0 {
                    break;
                }
                hasher.update(&buffer[..count]);
                target.write_all(&buffer[..count])?;
            }
        }
    }
    let actual = hasher.finish();
    if actual == wanted { Ok(()) } else { Err(io::Error::other(Mismatch { wanted, actual })) }
}

/// Gives the new file the SELinux label of the one that it will replace, if that is a file and has one.
pub(super) fn keep_label(directory: &OwnedFd, name: &[u8], new: &File) -> io::Result<()> {
    let is_file =
        statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|old| Stat::from_raw(&old).kind() == FileKind::File);
    if !is_file {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Gone meanwhile, or not ours to read: then its label is not ours to keep.
    let Ok(old) = openat(directory, name, flags, Mode::empty()) else { return Ok(()) };
    let Some(wanted) = label(&old) else { return Ok(()) };
    if label(new).as_ref() == Some(&wanted) {
        return Ok(());
    }
    match fsetxattr(new, LABEL, &wanted, XattrFlags::empty()) {
        // Without privileges the policy decides.
        Err(Errno::PERM | Errno::ACCESS) if !rustix::process::geteuid().is_root() => Ok(()),
        other => Ok(other?),
    }
}

fn label(file: impl std::os::fd::AsFd) -> Option<Vec<u8>> {
    let mut value = vec![0; MAX_LABEL_BYTES];
    let length = fgetxattr(file, LABEL, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

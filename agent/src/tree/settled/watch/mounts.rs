//! What is mounted, and whether that has changed.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};

use super::WatchError;
use crate::mount_table::unescaped;

/// proc_pid_mountinfo(5).
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// What the kernel's NFS server exports: exports(5), as nfsd(7) shows it.
const EXPORTS: &str = "/proc/fs/nfsd/exports";

/// Whether this machine exports file systems by the kernel's NFS server.
pub(super) fn are_exported() -> bool {
    std::fs::read_to_string(EXPORTS).is_ok_and(|text| has_exports(&text))
}

fn has_exports(text: &str) -> bool {
    text.lines().any(|line| !line.trim().is_empty() && !line.starts_with('#'))
}

/// The list of what is mounted, as it was when this was opened.
#[derive(Debug)]
pub(super) struct Mounts(File);

impl Mounts {
    pub(super) fn open() -> Result<Self, WatchError> {
        File::open(MOUNTINFO).map(Self).map_err(failed)
    }

    /// Whether it has changed since it was opened, or since it was asked last. Any doubt is a yes.
    pub(super) fn have_changed(&self) -> bool {
        let mut files = [PollFd::new(&self.0, PollFlags::PRI)];
        match poll(&mut files, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => files[0].revents().intersects(PollFlags::PRI | PollFlags::ERR),
            Err(_) => true,
        }
    }

    /// Returns where below `root` something is mounted: paths relative to it.
    pub(super) fn points_below(&self, root: &Path) -> Result<Vec<Vec<u8>>, WatchError> {
        let root = std::fs::canonicalize(root).map_err(failed)?;
        let mut text = Vec::new();
        (&self.0).read_to_end(&mut text).map_err(failed)?;
        Ok(text.split(|&byte| byte == b'\n').filter_map(|line| point_below(&root, line)).collect())
    }
}

/// Returns the fifth field of a line below `root`; not the root itself, which nothing leads to.
fn point_below(root: &Path, line: &[u8]) -> Option<Vec<u8>> {
    let point = unescaped(line.split(|&byte| byte == b' ').nth(4)?);
    let below = Path::new(std::ffi::OsStr::from_bytes(&point)).strip_prefix(root).ok()?.as_os_str().as_bytes().to_vec();
    (!below.is_empty()).then_some(below)
}

fn failed(source: io::Error) -> WatchError {
    WatchError::Kernel { what: MOUNTINFO.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_told_below_a_root_only() {
        let line = |point: &str| format!("36 35 98:0 /mnt1 {point} rw,noatime master:1 - ext3 /dev/root rw").into_bytes();
        let below = |root: &str, point: &str| point_below(Path::new(root), &line(point));
        assert_eq!(below("/", "/etc/hosts"), Some(b"etc/hosts".to_vec()));
        assert_eq!(below("/srv", "/srv/with\\040space\\134\\011"), Some(b"with space\\\t".to_vec()));
        for (root, point) in [("/", "/"), ("/srv", "/srv"), ("/srv", "/srvx/a"), ("/srv", "/etc")] {
            assert_eq!(below(root, point), None, "{root} {point}");
        }
        assert_eq!(point_below(Path::new("/"), b"36 35"), None);
    }

    #[test]
    fn comments_export_nothing() {
        assert!(!has_exports("# Version 1.1\n# Path Client(Flags) # IPs\n"));
        assert!(has_exports("# Version 1.1\n/srv\t*(rw,root_squash)\n"));
    }

    #[test]
    fn nothing_has_changed_at_first() {
        let mounts = Mounts::open().unwrap();
        assert!(!mounts.have_changed() && !mounts.have_changed());
        assert!(mounts.points_below(Path::new("/")).unwrap().contains(&b"proc".to_vec()));
    }
}

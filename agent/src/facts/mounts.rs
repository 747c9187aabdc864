//! `mountpoints`: what is mounted, and how full it is.
//!
//! A remote file system whose server is gone holds whoever asks it, for ever: the sizes of those are left out, and so are those
//! of what is mounted below them, because the way there leads through them.

use std::path::Path;

use direct_puppet_transport::protocol::Value;

use super::machine::Sizes;
use super::tree::Tree;
use super::{Facts, array, count, hash, known, text, units};
use crate::mount_table::unescaped;

/// Types whose sizes are asked from another machine, or from a process that may hang.
const REMOTE: [&str; 22] = [
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "fuse",
    "fuseblk",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "smb3",
    "smbfs",
    "virtiofs",
];

/// One line of the mount table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) device: String,
    pub(super) path: String,
    pub(super) filesystem: String,
    options: String,
}

/// Reads the mount table, in its order.
pub(super) fn read(tree: &Tree) -> Vec<Mount> {
    let root = || root_device(&tree.read("/proc/cmdline")?);
    let mut mounts = parse(&tree.read("/proc/self/mounts").unwrap_or_default());
    for mount in mounts.iter_mut().filter(|mount| mount.device == "/dev/root") {
        mount.device = root().unwrap_or_else(|| mount.device.clone());
    }
    mounts
}

/// Reads the format of fstab(5), as in `/proc/self/mounts`.
fn parse(table: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let mut fields = line.split_whitespace().map(unescape);
        Some(Mount { device: fields.next()?, path: fields.next()?, filesystem: fields.next()?, options: fields.next()? })
    };
    table.lines().filter_map(mount).collect()
}

/// Undoes the octal escapes of blanks and backslashes; what would be no text then stays as it is written.
fn unescape(field: &str) -> String {
    String::from_utf8(unescaped(field.as_bytes())).unwrap_or_else(|_| field.to_owned())
}

/// Returns the device that the kernel was told to take as root, unless it was told a label or an id.
fn root_device(cmdline: &str) -> Option<String> {
    let root = cmdline.split_whitespace().filter_map(|word| word.strip_prefix("root=")).next_back()?;
    (!root.contains('=')).then(|| root.to_owned())
}

/// As Facter: nothing below `/proc` and `/sys` but memory file systems, and no automounter.
fn is_shown(mount: &Mount) -> bool {
    let is_of_kernel = mount.path.starts_with("/proc") || mount.path.starts_with("/sys");
    (!is_of_kernel || mount.filesystem == "tmpfs") && mount.filesystem != "autofs"
}

fn is_remote(mount: &Mount) -> bool {
    let filesystem = mount.filesystem.as_str();
    REMOTE.binary_search(&filesystem).is_ok() || filesystem.starts_with("fuse.") || filesystem == "autofs"
}

pub(super) fn mountpoints(mounts: &[Mount], measure: fn(&Path) -> Option<Sizes>) -> Option<Value> {
    let remote: Vec<&Path> = mounts.iter().filter(|mount| is_remote(mount)).map(|mount| Path::new(&mount.path)).collect();
    let mut facts = Facts::new();
    for mount in mounts.iter().filter(|mount| is_shown(mount)) {
        let path = Path::new(&mount.path);
        let may_hang = remote.iter().any(|remote| path.starts_with(remote));
        let mut fact = known([
            ("device", text(&mount.device)),
            ("filesystem", text(&mount.filesystem)),
            ("options", array(mount.options.split(',').map(Value::from))),
        ]);
        fact.extend((!may_hang).then(|| measure(path)).flatten().map(sizes).unwrap_or_default());
        // A later mount on the same path hides an earlier one.
        facts.extend(hash(fact).map(|fact| (mount.path.clone(), fact)));
    }
    hash(facts)
}

fn sizes(Sizes { total, free, available }: Sizes) -> Facts {
    let used = total.saturating_sub(free);
    let capacity = match used {
        // Also when there is no room at all, as on a file system of the kernel.
        _ if available == 0 => "100%".to_owned(),
        0 => "0%".to_owned(),
        used => units::share(used, used.saturating_add(available)),
    };
    known([
        ("size_bytes", count(total)),
        ("size", text(units::bytes(total))),
        ("available_bytes", count(available)),
        ("available", text(units::bytes(available))),
        ("used_bytes", count(used)),
        ("used", text(units::bytes(used))),
        ("capacity", text(capacity)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::{Scratch, json};

    fn measured(path: &Path) -> Option<Sizes> {
        match path.to_str()? {
            "/" => Some(Sizes { total: 270_553_174_016, free: 256_158_621_464, available: 83_178_196_992 }),
            "/dev/shm" => Some(Sizes { total: 1024, free: 1024, available: 1024 }),
            "/dev/pts" => Some(Sizes { total: 0, free: 0, available: 0 }),
            "/gone" => None,
            other => panic!("{other} must not be asked"),
        }
    }

    #[test]
    fn what_is_mounted() {
        let scratch = Scratch::new(&[
            ("/proc/cmdline", "quiet root=/dev/sda1 ro\n"),
            (
                "/proc/self/mounts",
                "/dev/root / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0\nsysfs /sys sysfs rw 0 0\n\
                 tmpfs /dev/shm tmpfs rw 0 0\ndevpts /dev/pts devpts rw,mode=600 0 0\nsystemd-1 /auto autofs rw 0 0\n\
                 nas:/a\\040b /mnt/a\\040b nfs4 rw,vers=4.2 0 0\n/dev/sdb1 /mnt/a\\040b/local ext4 rw 0 0\n\
                 /dev/sdc1 /gone xfs rw 0 0\nsshfs /home/ann/far fuse.sshfs rw 0 0\nbroken\n",
            ),
        ]);
        let expected = r#"{
            "/": {"device": "/dev/sda1", "filesystem": "ext4", "options": ["rw", "relatime"], "available": "77.47 GiB",
                "available_bytes": 83178196992, "capacity": "14.75%", "size": "251.97 GiB", "size_bytes": 270553174016,
                "used": "13.41 GiB", "used_bytes": 14394552552},
            "/dev/shm": {"device": "tmpfs", "filesystem": "tmpfs", "options": ["rw"], "available": "1.00 KiB", "available_bytes": 1024,
                "capacity": "0%", "size": "1.00 KiB", "size_bytes": 1024, "used": "0 bytes", "used_bytes": 0},
            "/dev/pts": {"device": "devpts", "filesystem": "devpts", "options": ["rw", "mode=600"], "available": "0 bytes",
                "available_bytes": 0, "capacity": "100%", "size": "0 bytes", "size_bytes": 0, "used": "0 bytes", "used_bytes": 0},
            "/mnt/a b": {"device": "nas:/a b", "filesystem": "nfs4", "options": ["rw", "vers=4.2"]},
            "/mnt/a b/local": {"device": "/dev/sdb1", "filesystem": "ext4", "options": ["rw"]},
            "/gone": {"device": "/dev/sdc1", "filesystem": "xfs", "options": ["rw"]},
            "/home/ann/far": {"device": "sshfs", "filesystem": "fuse.sshfs", "options": ["rw"]}
        }"#;
        assert_eq!(mountpoints(&read(&scratch.tree()), measured), Some(json(expected)));
    }

    #[test]
    fn escapes() {
        for (field, text) in [("a\\040b", "a b"), ("\\134", "\\"), ("\\303\\251", "\u{e9}"), ("\\377", "\\377")] {
            assert_eq!(unescape(field), text, "{field}");
        }
    }

    #[test]
    fn the_remote_types_are_sorted() {
        assert!(REMOTE.is_sorted());
    }
}

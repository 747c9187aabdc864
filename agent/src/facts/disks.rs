//! `disks` and `partitions`: `/sys/block`, what udev knows, and the mount table.
//!
//! File systems, labels and ids of partitions are those that udev found; where no udev runs they are left out.

use direct_puppet_transport::protocol::Value;

use super::mounts::Mount;
use super::tree::Tree;
use super::{Facts, count, hash, known, text, udev, units};

/// The unit of sizes in `/sys/block`, whatever the device's own is.
const SECTOR_BYTES: u64 = 512;

pub(super) fn disks(tree: &Tree) -> Option<Value> {
    let has_device = |name: &String| tree.exists(&format!("/sys/block/{name}/device"));
    let disks = tree.list("/sys/block").into_iter().filter(has_device);
    hash(disks.filter_map(|name| disk(tree, &format!("/sys/block/{name}")).map(|fact| (name, fact))).collect())
}

fn disk(tree: &Tree, sys: &str) -> Option<Value> {
    let udev = udev::properties(tree, sys);
    let first = |names: &[&str]| names.iter().find_map(|name| udev.get(*name).filter(|value| !value.is_empty()).cloned());
    let line = |name: &str| tree.line(&format!("{sys}/{name}"));
    let size = size_bytes(tree, sys);
    // As lsblk, which Facter asks: the first property that there is.
    let serial =
        first(&["SCSI_IDENT_SERIAL", "ID_SCSI_SERIAL", "ID_SERIAL_SHORT", "ID_SERIAL"]).or_else(|| line("device/serial"));
    hash(known([
        ("model", line("device/model").and_then(text)),
        ("serial", serial.and_then(text)),
        ("size", size.and_then(|size| text(units::bytes(size)))),
        ("size_bytes", size.and_then(count)),
        ("type", line("queue/rotational").and_then(|line| text(if line == "0" { "ssd" } else { "hdd" }))),
        ("vendor", line("device/vendor").and_then(text)),
        ("wwn", first(&["ID_WWN_WITH_EXTENSION", "ID_WWN"]).and_then(text)),
    ]))
}

fn size_bytes(tree: &Tree, sys: &str) -> Option<u64> {
    tree.line(&format!("{sys}/size"))?.parse::<u64>().ok()?.checked_mul(SECTOR_BYTES)
}

pub(super) fn partitions(tree: &Tree, mounts: &[Mount]) -> Option<Value> {
    let mut facts = Facts::new();
    for block in tree.list("/sys/block") {
        let sys = format!("/sys/block/{block}");
        let has = |name: &str| tree.exists(&format!("{sys}/{name}"));
        let line = |name: &str| tree.line(&format!("{sys}/{name}"));
        let mut add = |device: String, sys: &str, backing_file: Option<String>| {
            let fact = partition(tree, &device, sys, backing_file, mounts);
            facts.extend(fact.map(|fact| (device, fact)));
        };
        if has("device") {
            for name in tree.list(&sys).into_iter().filter(|name| name.starts_with(&block)) {
                add(format!("/dev/{name}"), &format!("{sys}/{name}"), None);
            }
        } else if has("dm") {
            add(line("dm/name").map_or_else(|| format!("/dev/{block}"), |name| format!("/dev/mapper/{name}")), &sys, None);
        } else if has("loop") {
            add(format!("/dev/{block}"), &sys, line("loop/backing_file"));
        }
    }
    hash(facts)
}

fn partition(tree: &Tree, device: &str, sys: &str, backing_file: Option<String>, mounts: &[Mount]) -> Option<Value> {
    let udev = udev::properties(tree, sys);
    let property = |name: &str| udev.get(name).map(|value| udev::unescape(value)).and_then(text);
    let mount = mounts.iter().find(|mount| mount.device == device);
    let size = size_bytes(tree, sys);
    hash(known([
        ("backing_file", backing_file.and_then(text)),
        ("filesystem", property("ID_FS_TYPE")),
        ("label", property("ID_FS_LABEL_ENC").or_else(|| property("ID_FS_LABEL"))),
        ("mount", mount.and_then(|mount| text(&mount.path))),
        ("partlabel", property("ID_PART_ENTRY_NAME")),
        ("parttype", property("ID_PART_ENTRY_TYPE")),
        ("partuuid", property("ID_PART_ENTRY_UUID")),
        ("size", size.and_then(|size| text(units::bytes(size)))),
        ("size_bytes", size.and_then(count)),
        ("uuid", property("ID_FS_UUID_ENC").or_else(|| property("ID_FS_UUID"))),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::mounts;
    use crate::facts::testing::{Scratch, json};

    fn machine() -> Scratch {
        let scratch = Scratch::new(&[
            ("/sys/block/sda/size", "2000409264\n"),
            ("/sys/block/sda/dev", "8:0\n"),
            ("/sys/block/sda/queue/rotational", "0\n"),
            ("/sys/block/sda/device/model", "Samsung SSD 860 \n"),
            ("/sys/block/sda/device/vendor", "ATA     \n"),
            ("/run/udev/data/b8:0", "E:ID_SERIAL=Samsung_X\nE:ID_SERIAL_SHORT=S3Z8\nE:ID_WWN=0x5002538e\n"),
            ("/sys/block/sda/sda1/size", "1048576\n"),
            ("/sys/block/sda/sda1/dev", "8:1\n"),
            (
                "/run/udev/data/b8:1",
                "E:ID_FS_TYPE=vfat\nE:ID_FS_UUID_ENC=7A2D-5F1B\nE:ID_FS_LABEL_ENC=my\\x20boot\nE:ID_PART_ENTRY_NAME=EFI\\x20System\n\
                 E:ID_PART_ENTRY_UUID=11-22\nE:ID_PART_ENTRY_TYPE=c12a7328\n",
            ),
            ("/sys/block/nvme0n1/size", "16\n"),
            ("/sys/block/nvme0n1/device/serial", "S4\n"),
            ("/sys/block/nvme0n1/nvme0n1p1/size", "8\n"),
            ("/sys/block/dm-0/size", "4096\n"),
            ("/sys/block/dm-0/dm/name", "vg-root\n"),
            ("/sys/block/loop0/size", "8\n"),
            ("/sys/block/loop0/loop/backing_file", "/var/lib/a b.img\n"),
            ("/sys/block/loop1/size", "0\n"),
            (
                "/proc/self/mounts",
                "/dev/mapper/vg-root / xfs rw 0 0\n/dev/sda1 /boot/efi vfat rw 0 0\n/dev/sda1 /mnt vfat rw 0 0\n",
            ),
        ]);
        scratch.make_dir("/sys/block/sda/sda1");
        scratch.make_dir("/sys/block/sda/queue");
        scratch
    }

    #[test]
    fn disks_of_every_kind() {
        let expected = r#"{
            "sda": {"model": "Samsung SSD 860", "serial": "S3Z8", "size": "953.87 GiB", "size_bytes": 1024209543168, "type": "ssd",
                "vendor": "ATA", "wwn": "0x5002538e"},
            "nvme0n1": {"serial": "S4", "size": "8.00 KiB", "size_bytes": 8192}
        }"#;
        assert_eq!(disks(&machine().tree()), Some(json(expected)));
        assert_eq!(disks(&Scratch::new(&[]).tree()), None);
    }

    #[test]
    fn partitions_of_every_kind() {
        let scratch = machine();
        let expected = r#"{
            "/dev/sda1": {"filesystem": "vfat", "uuid": "7A2D-5F1B", "label": "my boot", "partlabel": "EFI System", "partuuid": "11-22",
                "parttype": "c12a7328", "size": "512.00 MiB", "size_bytes": 536870912, "mount": "/boot/efi"},
            "/dev/nvme0n1p1": {"size": "4.00 KiB", "size_bytes": 4096},
            "/dev/mapper/vg-root": {"size": "2.00 MiB", "size_bytes": 2097152, "mount": "/"},
            "/dev/loop0": {"size": "4.00 KiB", "size_bytes": 4096, "backing_file": "/var/lib/a b.img"}
        }"#;
        assert_eq!(partitions(&scratch.tree(), &mounts::read(&scratch.tree())), Some(json(expected)));
    }
}

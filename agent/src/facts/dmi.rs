//! `dmi`: what the firmware says of the machine.

use direct_puppet_transport::protocol::Value;

use super::tree::Tree;
use super::{hash, known, text};

/// Chassis types 1 to 32 of the SMBIOS specification (§7.4.1), in the words of Facter; "Unknown" has none.
const CHASSIS: [&str; 32] = [
    "Other",
    "",
    "Desktop",
    "Low Profile Desktop",
    "Pizza Box",
    "Mini Tower",
    "Tower",
    "Portable",
    "Laptop",
    "Notebook",
    "Hand Held",
    "Docking Station",
    "All in One",
    "Sub Notebook",
    "Space-Saving",
    "Lunch Box",
    "Main System Chassis",
    "Expansion Chassis",
    "SubChassis",
    "Bus Expansion Chassis",
    "Peripheral Chassis",
    "Storage Chassis",
    "Rack Mount Chassis",
    "Sealed-Case PC",
    "Multi-system",
    "CompactPCI",
    "AdvancedTCA",
    "Blade",
    "Blade Enclosure",
    "Tablet",
    "Convertible",
    "Detachable",
];

/// Serial numbers and the UUID can be read by root alone.
pub(super) fn dmi(tree: &Tree) -> Option<Value> {
    let id = |name: &str| id(tree, name).and_then(text);
    let chassis = self::id(tree, "chassis_type").and_then(|number| number.parse::<usize>().ok()?.checked_sub(1));
    let chassis = chassis.and_then(|at| CHASSIS.get(at)).filter(|name| !name.is_empty());
    hash(known([
        (
            "bios",
            hash(known([("release_date", id("bios_date")), ("vendor", id("bios_vendor")), ("version", id("bios_version"))])),
        ),
        (
            "board",
            hash(known([
                ("asset_tag", id("board_asset_tag")),
                ("manufacturer", id("board_vendor")),
                ("product", id("board_name")),
                ("serial_number", id("board_serial")),
            ])),
        ),
        ("chassis", hash(known([("asset_tag", id("chassis_asset_tag")), ("type", chassis.and_then(|name| text(*name)))]))),
        ("manufacturer", id("sys_vendor")),
        (
            "product",
            hash(known([
                ("name", id("product_name")),
                ("serial_number", id("product_serial")),
                ("uuid", id("product_uuid")),
                ("version", id("product_version")),
            ])),
        ),
    ]))
}

/// Returns one entry of the firmware's table, if it says anything.
pub(super) fn id(tree: &Tree, name: &str) -> Option<String> {
    tree.line(&format!("/sys/class/dmi/id/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::{Scratch, json};

    #[test]
    fn what_the_firmware_says() {
        let scratch = Scratch::new(&[
            ("/sys/class/dmi/id/bios_vendor", "SeaBIOS\n"),
            ("/sys/class/dmi/id/board_asset_tag", "\n"),
            ("/sys/class/dmi/id/chassis_type", "23\n"),
            ("/sys/class/dmi/id/sys_vendor", "QEMU \n"),
            ("/sys/class/dmi/id/product_uuid", "a-b\n"),
        ]);
        let expected = r#"{"bios": {"vendor": "SeaBIOS"}, "chassis": {"type": "Rack Mount Chassis"}, "manufacturer": "QEMU",
            "product": {"uuid": "a-b"}}"#;
        assert_eq!(dmi(&scratch.tree()), Some(json(expected)));
        for none in ["0\n", "2\n", "33\n", "x\n", ""] {
            assert_eq!(dmi(&Scratch::new(&[("/sys/class/dmi/id/chassis_type", none)]).tree()), None, "{none:?}");
        }
    }
}

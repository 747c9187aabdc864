//! Which distribution a machine has, and how Facter calls it.

use super::{OsRelease, capitalize};
use crate::facts::tree::Tree;

/// Distributions that keep their version in files of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distribution {
    Debian,
    Devuan,
    Ubuntu,
    Mint,
    /// Red Hat Enterprise Linux, its rebuilds, and Fedora.
    RedHat,
    Oracle,
    Amazon,
    Suse,
    Arch,
    Alpine,
    Gentoo,
    Mageia,
    Slackware,
    /// Any other: what os-release(5) says.
    Other,
}

impl Distribution {
    pub(super) fn detect(tree: &Tree, release: &OsRelease) -> Self {
        if tree.exists("/etc/arch-release") {
            return Self::Arch;
        }
        if tree.exists("/etc/devuan_version") {
            return Self::Devuan;
        }
        let likes = release.get("ID_LIKE").unwrap_or_default().split_whitespace();
        let found = release.get("ID").into_iter().chain(likes).find_map(Self::of_id);
        match found {
            Some(found) => found,
            None if tree.exists("/etc/redhat-release") => Self::RedHat,
            None => Self::Other,
        }
    }

    fn of_id(id: &str) -> Option<Self> {
        Some(match id.to_lowercase().as_str() {
            "debian" | "raspbian" | "elementary" => Self::Debian,
            "devuan" => Self::Devuan,
            "ubuntu" => Self::Ubuntu,
            "linuxmint" => Self::Mint,
            "rhel" | "fedora" | "centos" | "scientific" | "meego" | "oel" | "ovs" => Self::RedHat,
            "ol" => Self::Oracle,
            "amzn" => Self::Amazon,
            "sles" | "sled" | "sles_sap" => Self::Suse,
            id if id.starts_with("opensuse") => Self::Suse,
            "arch" | "archlinux" => Self::Arch,
            "alpine" => Self::Alpine,
            "gentoo" => Self::Gentoo,
            "mageia" => Self::Mageia,
            "slackware" => Self::Slackware,
            _ => return None,
        })
    }

    pub(super) const fn is_debian(self) -> bool {
        matches!(self, Self::Debian | Self::Devuan | Self::Ubuntu | Self::Mint)
    }

    pub(super) const fn is_red_hat(self) -> bool {
        matches!(self, Self::RedHat | Self::Oracle | Self::Amazon)
    }

    /// Returns `os.family`.
    pub(super) fn family(self, release: &OsRelease) -> Option<String> {
        let known = match self {
            _ if self.is_red_hat() => "RedHat",
            _ if self.is_debian() => "Debian",
            Self::Suse => "Suse",
            Self::Arch => "Archlinux",
            _ => return release.get("ID_LIKE").or_else(|| release.get("ID")).map(family_of),
        };
        Some(known.to_owned())
    }

    /// Returns `os.name`.
    pub(super) fn name(self, tree: &Tree, release: &OsRelease) -> Option<String> {
        match (self, release.get("NAME")) {
            (Self::Mint, _) => release.get("ID").map(capitalize),
            (_, Some(name)) => short_name(name),
            (_, None) => short_name(tree.line("/etc/redhat-release")?.split("release").next()?),
        }
    }
}

/// Names of distributions that tell the family, in Facter's order.
const FAMILIES: [(&str, &[&str]); 6] = [
    (
        "RedHat",
        &[
            "redhat",
            "rhel",
            "fedora",
            "centos",
            "scientific",
            "ascendos",
            "cloudlinux",
            "psbm",
            "oraclelinux",
            "ovs",
            "oel",
            "amazon",
            "xenserver",
            "xcp-ng",
            "virtuozzo",
            "photon",
            "mariner",
            "azurelinux",
        ],
    ),
    ("Debian", &["debian", "ubuntu", "huaweios", "linuxmint", "devuan", "kde"]),
    ("Suse", &["sles", "sled", "suse"]),
    ("Gentoo", &["gentoo"]),
    ("Archlinux", &["arch", "manjaro"]),
    ("Mandrake", &["mandrake", "mandriva", "mageia"]),
];

fn family_of(id: &str) -> String {
    let lower = id.to_lowercase();
    let family = FAMILIES.iter().find(|(_, names)| names.iter().any(|name| lower.contains(name)));
    family.map_or_else(|| capitalize(id), |(family, _)| (*family).to_owned())
}

/// Shortens a distribution's name for people to the one that Facter gives it.
fn short_name(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let words: Vec<&str> = name.split_whitespace().collect();
    let is = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    let short = match words.as_slice() {
        _ if lower.starts_with("sles") => "SLES".to_owned(),
        [first, second, ..] if is(&["arch", "manjaro"]) => capitalize(&format!("{first}{second}")),
        [first, second, ..] if is(&["red", "oracle"]) => format!("{first}{second}"),
        [_, second, third] if lower.ends_with("azure linux") => format!("{second}{third}"),
        [.., last] if lower.ends_with("mariner") => (*last).to_owned(),
        [first, ..] if is(&["arch", "manjaro"]) => capitalize(first),
        [first, ..] if is(&["virtuozzo"]) => format!("{first}Linux"),
        [first, ..] => (*first).to_owned(),
        [] => return None,
    };
    Some(short)
}

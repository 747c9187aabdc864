//! `os.release` and `os.distro`.

use direct_puppet_transport::protocol::Value;

use super::distribution::Distribution;
use super::{OsRelease, capitalize};
use crate::facts::tree::Tree;
use crate::facts::{hash, known, text};

/// Returns `os.release`.
pub(super) fn release(tree: &Tree, distribution: Distribution, os: &OsRelease, kernel_release: &str) -> Option<Value> {
    let line = |path: &str| tree.line(path);
    let fallback = || os.version_id();
    match distribution {
        Distribution::Debian => debian(&line("/etc/debian_version")?),
        Distribution::Devuan => dotted(&line("/etc/devuan_version").or_else(fallback)?),
        Distribution::Ubuntu => whole(&os.version_id()?),
        Distribution::Mint => dotted(&line("/etc/linuxmint/info").as_deref().and_then(mint).or_else(fallback)?),
        Distribution::RedHat => dotted(&line("/etc/redhat-release").as_deref().and_then(red_hat_version).or_else(fallback)?),
        Distribution::Oracle => dotted(&line("/etc/oracle-release").as_deref().and_then(after_release).or_else(fallback)?),
        Distribution::Amazon => dotted(&amazon(tree, os)?),
        Distribution::Suse => suse(&os.version_id()?),
        // It has no version: as Facter, that of its kernel.
        Distribution::Arch => dotted(kernel_release),
        Distribution::Alpine => dotted(&line("/etc/alpine-release").or_else(fallback)?),
        Distribution::Gentoo => dotted(&line("/etc/gentoo-release").as_deref().and_then(after_release).or_else(fallback)?),
        Distribution::Mageia => dotted(&line("/etc/mageia-release").as_deref().and_then(after_release).or_else(fallback)?),
        Distribution::Slackware => {
            let version = line("/etc/slackware-version");
            dotted(&version.and_then(|line| line.strip_prefix("Slackware ").and_then(leading_version)).or_else(fallback)?)
        }
        Distribution::Other => whole(&os.version_id()?),
    }
}

/// Returns `os.distro`: what lsb_release(1) would say, from the files that it reads.
pub(super) fn distro(tree: &Tree, distribution: Distribution, os: &OsRelease) -> Option<Value> {
    let id = || os.get("ID").map(capitalize).and_then(text);
    let description = || os.get("PRETTY_NAME").and_then(text);
    match distribution {
        _ if distribution.is_debian() => hash(known([
            ("codename", debian_codename(os).and_then(text)),
            ("description", description()),
            ("id", id()),
            ("release", debian_distro_release(tree, distribution, os)),
        ])),
        Distribution::RedHat | Distribution::Oracle => {
            let line = tree.line("/etc/redhat-release");
            let line = line.as_deref();
            let is_oracle = distribution == Distribution::Oracle;
            hash(known([
                ("codename", line.and_then(codename).and_then(text)),
                ("description", if is_oracle { description() } else { line.and_then(text) }),
                ("id", if is_oracle { id() } else { line.and_then(distributor) }),
                ("release", line.and_then(red_hat_version).or_else(|| os.version_id()).and_then(|version| dotted(&version))),
            ]))
        }
        Distribution::Amazon => {
            let line = tree.line("/etc/system-release")?;
            hash(known([
                ("codename", text(codename(&line).unwrap_or("n/a"))),
                ("description", text(line.as_str())),
                ("id", distributor(&line)),
                ("release", amazon(tree, os).and_then(|version| dotted(&version))),
            ]))
        }
        Distribution::Suse => {
            let version = os.version_id()?;
            hash(known([
                ("codename", text(os.get("VERSION_CODENAME").unwrap_or("n/a"))),
                ("description", description()),
                ("id", text(if version.starts_with("12") { "SUSE LINUX" } else { "SUSE" })),
                ("release", suse(&version)),
            ]))
        }
        _ => None,
    }
}

/// Splits a version at its points.
fn dotted(version: &str) -> Option<Value> {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next(), parts.next());
    hash(known([("full", text(version)), ("major", major.and_then(text)), ("minor", minor.and_then(text))]))
}

/// A version of which no part stands for itself, as Ubuntu's.
fn whole(version: &str) -> Option<Value> {
    hash(known([("full", text(version)), ("major", text(version))]))
}

/// Splits Debian's version; `trixie/sid` is one part.
fn debian(version: &str) -> Option<Value> {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next(), parts.next());
    // Facter drops a leading zero that another digit follows: 10.04 has the minor version 4.
    let minor = minor.map(|minor| {
        minor.strip_prefix('0').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit() && c != '0')).unwrap_or(minor)
    });
    hash(known([("full", text(version)), ("major", major.and_then(text)), ("minor", minor.and_then(text))]))
}

fn suse(version: &str) -> Option<Value> {
    let (major, minor) = (version.split('.').next(), version.rsplit('.').next());
    hash(known([("full", text(version)), ("major", major.and_then(text)), ("minor", minor.and_then(text))]))
}

fn amazon(tree: &Tree, os: &OsRelease) -> Option<String> {
    let version = tree.line("/etc/system-release").as_deref().and_then(after_release);
    // Later ones number by day in their packages' database alone: the year is all that files tell.
    version.filter(|version| version == "2").or_else(|| os.get("VERSION_ID").map(str::to_owned))
}

fn mint(info: &str) -> Option<String> {
    let digits: String =
        info.lines().find_map(|line| line.strip_prefix("RELEASE="))?.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

fn debian_codename(os: &OsRelease) -> Option<String> {
    if let Some(codename) = os.get("VERSION_CODENAME") {
        return Some(codename.to_owned());
    }
    let version = os.get("VERSION")?;
    let in_parentheses = version.rsplit_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).filter(|name| !name.is_empty());
    in_parentheses.map(str::to_owned)
}

fn debian_distro_release(tree: &Tree, distribution: Distribution, os: &OsRelease) -> Option<Value> {
    match distribution {
        Distribution::Debian => debian(&tree.line("/etc/debian_version")?),
        Distribution::Ubuntu | Distribution::Mint => whole(&os.version_id()?),
        _ => None,
    }
}

/// Reads the version in `Rocky Linux release 9.3 (Blue Onyx)`.
fn red_hat_version(line: &str) -> Option<String> {
    line.split("release").nth(1)?.split_whitespace().next().map(str::to_owned)
}

/// Reads the digits and points after the word "release".
fn after_release(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("release ")?;
    leading_version(rest)
}

fn leading_version(text: &str) -> Option<String> {
    let version: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    version.starts_with(|c: char| c.is_ascii_digit()).then_some(version)
}

/// Reads the code name in the parentheses at the end.
fn codename(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("release")?;
    let (_, rest) = rest.split_once('(')?;
    let (name, _) = rest.split_once(')')?;
    (!name.is_empty()).then_some(name)
}

/// Reads the name before the word "release", as lsb_release(1) writes it.
fn distributor(line: &str) -> Option<Value> {
    let name = line.split("release").next()?;
    text(name.split_whitespace().filter(|word| !word.eq_ignore_ascii_case("linux")).collect::<String>())
}

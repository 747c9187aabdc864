//! `os`: the distribution, from the files that it keeps for that.

mod distribution;
mod release;
mod selinux;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::Value;

use self::distribution::Distribution;
use super::machine::Kernel;
use super::tree::Tree;
use super::{hash, known, text};

pub(super) fn os(tree: &Tree, kernel: &Kernel) -> Option<Value> {
    let release = OsRelease::read(tree);
    let distribution = Distribution::detect(tree, &release);
    hash(known([
        ("architecture", text(architecture(distribution, &kernel.machine))),
        ("distro", release::distro(tree, distribution, &release)),
        ("family", distribution.family(&release).and_then(text)),
        ("hardware", text(&kernel.machine)),
        ("name", distribution.name(tree, &release).and_then(text)),
        ("release", release::release(tree, distribution, &release, &kernel.release)),
        ("selinux", selinux::selinux(tree)),
    ]))
}

/// Debian and its children call the architecture by their packages' name.
fn architecture(distribution: Distribution, machine: &str) -> &str {
    match machine {
        "i386" | "i486" | "i586" | "i686" | "pentium" => "i386",
        "x86_64" if distribution.is_debian() => "amd64",
        other => other,
    }
}

/// What os-release(5) says.
#[derive(Debug, Default)]
struct OsRelease(BTreeMap<String, String>);

impl OsRelease {
    fn read(tree: &Tree) -> Self {
        let text = tree.read("/etc/os-release").or_else(|| tree.read("/usr/lib/os-release"));
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), unquote(value))).collect())
    }

    /// Returns a value that is not empty.
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the version; as Facter, one without a point gets one.
    fn version_id(&self) -> Option<String> {
        let version = self.get("VERSION_ID")?;
        Some(if version.contains('.') { version.to_owned() } else { format!("{version}.0") })
    }
}

/// Undoes the quotes of a shell assignment.
fn unquote(value: &str) -> String {
    let Some(quote @ ('"' | '\'')) = value.chars().next() else { return value.to_owned() };
    let inner = value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote)).unwrap_or(value);
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if quote == '"' => text.extend(chars.next()),
            c => text.push(c),
        }
    }
    text
}

/// Writes a word as Ruby's `capitalize`: the first letter large, the others small.
fn capitalize(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters.flat_map(char::to_lowercase)).collect()
}

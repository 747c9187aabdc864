//! What the suites share: the real programs, sites, and trees.

pub mod authority;
pub mod binaries;
pub mod disk;
pub mod equals;
pub mod guest;
pub mod link;
pub mod namespaces;
pub mod postgres;
pub mod s3;
pub mod serving;
pub mod site;
pub mod steps;
pub mod wire;
pub mod world;

/// How much a campaign (kills, power cuts) does: `CAMPAIGN=long` for the whole number, anything else for a tenth.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one knob of the suites")]
pub fn campaign(full: usize) -> usize {
    if std::env::var("CAMPAIGN").is_ok_and(|size| size == "long") { full } else { full.div_ceil(10) }
}

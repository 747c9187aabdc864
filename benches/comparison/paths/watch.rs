//! The resident daemon, told by the kernel what changed.

use crate::bench::Bench;
use crate::table::{Goal, Rows, Unit};

pub(super) fn measure(_bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let why = "the daemon has no watch: each of its runs stats every file";
    rows.not_built("check, nothing changed", Goal::AtMost(1.0), Some(Unit::Milliseconds), why);
    rows.not_built("for each changed file", Goal::AtMost(0.005), Some(Unit::Milliseconds), why);
    Ok(())
}

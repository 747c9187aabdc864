//! As `no_change`, with the page cache emptied before each turn. Shown only: disks differ.

use crate::bench::{Bench, drop_caches};
use crate::measure::{Basis, Contender, in_turns};
use crate::paths::no_change::Settled;
use crate::table::{Goal, Rows};

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let settled = Settled::tree(bench, bench.files)?;
    let git = settled.prepare_git().map_err(|error| format!("{error:#}"));
    let contenders = vec![
        Contender::process("run", 0, || {
            drop_caches().map_err(|error| anyhow::anyhow!("gap: {error:#}"))?;
            Ok(settled.node.command(&["run"]))
        }),
        Contender::process("floor: fstatat of each file", 0, || {
            drop_caches()?;
            settled.floor(bench, "stat")
        }),
        Contender::process("git status", 0, || {
            git.clone().map_err(anyhow::Error::msg)?;
            drop_caches()?;
            settled.git_status()
        }),
    ];
    let series = in_turns(bench.few_rounds(), contenders);
    let [ours, stat, git] = &series[..] else { unreachable!("three contenders") };
    rows.ratio(ours, stat, Basis::Wall, Goal::None, "");
    rows.ratio(ours, git, Basis::Wall, Goal::None, "");
    Ok(())
}

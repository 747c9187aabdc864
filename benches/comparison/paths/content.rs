//! `direct-puppet verify`: every managed file is read and hashed.

use crate::bench::Bench;
use crate::measure::{Basis, Contender, in_turns};
use crate::paths::no_change::Settled;
use crate::peers::{copy, find};
use crate::table::{Goal, Rows};

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let settled = Settled::tree(bench, bench.files)?;
    copy(&settled.node.root(), &settled.copy)?;
    let contenders = vec![
        Contender::process("verify", 0, || Ok(settled.node.command(&["verify"]))),
        Contender::process("floor: open, read, close, BLAKE3", 0, || settled.floor(bench, "read")),
        Contender::process("b3sum", 0, || {
            let mut command = std::process::Command::new("xargs");
            command.args(["-0", "-a"]).arg(&settled.list).arg(find("b3sum")?);
            command.current_dir(settled.node.root());
            Ok(command)
        }),
        Contender::process("rsync -anc", 0, || settled.rsync("-anc")),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, read, b3sum, rsync] = &series[..] else { unreachable!("four contenders") };
    let why = "four fifths are the scan: open, read and BLAKE3 of small files one by one; the rest decodes the catalog and makes a resource of each file";
    rows.ratio(ours, read, Basis::Cpu, Goal::AtMost(1.6), why);
    rows.not_built(
        "verify by the keyed fingerprint",
        Goal::AtMost(1.1),
        None,
        "no verb reads all contents and compares fingerprints only",
    );
    rows.ratio(ours, b3sum, Basis::Cpu, Goal::AtMost(0.65), why);
    rows.ratio(ours, rsync, Basis::Cpu, Goal::AtMost(0.45), why);
    Ok(())
}

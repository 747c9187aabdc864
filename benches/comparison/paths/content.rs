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
        Contender::process("verify --fingerprints", 0, || Ok(settled.node.command(&["verify", "--fingerprints"]))),
        Contender::process("floor: open, read, close, BLAKE3", 0, || settled.floor(bench, "read")),
        Contender::process("floor: open, read, close", 0, || settled.floor(bench, "read-only")),
        Contender::process("b3sum", 0, || {
            let mut command = std::process::Command::new("xargs");
            command.args(["-0", "-a"]).arg(&settled.list).arg(find("b3sum")?);
            command.current_dir(settled.node.root());
            Ok(command)
        }),
        Contender::process("rsync -anc", 0, || settled.rsync("-anc")),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, by_fingerprint, read, read_only, b3sum, rsync] = &series[..] else { unreachable!("six contenders") };
    let why = "open, read, close and BLAKE3 of small files one by one, as the floor; beside that each file is looked at after it was read, for it may \
               have changed meanwhile";
    rows.ratio(ours, read, Basis::Cpu, Goal::AtMost(1.6), why);
    let by_one_more = "one system call more than the floor for each file, a look after it was read, for it may have changed meanwhile; and each byte is \
                       fingerprinted, by threads that share the memory's bandwidth. Done: files of unchanged directories are not looked at before they are \
                       opened, and threads have descriptors of their own";
    rows.ratio(by_fingerprint, read_only, Basis::Cpu, Goal::AtMost(1.1), by_one_more);
    let near = "the floor alone is six tenths of it; beside that each file is looked at once, as above. Done: a small file is read by one call into a \
                buffer that is used again";
    rows.ratio(ours, b3sum, Basis::Cpu, Goal::AtMost(0.65), near);
    rows.ratio(
        ours,
        rsync,
        Basis::Cpu,
        Goal::AtMost(0.45),
        "the floor alone, which reads and hashes each file by BLAKE3, is more than that",
    );
    // How far below them anything that reads and hashes each file can get.
    rows.ratio(read, b3sum, Basis::Cpu, Goal::None, "");
    rows.ratio(read, rsync, Basis::Cpu, Goal::None, "");
    Ok(())
}

//! One file of 1 GiB (256 MiB for a look): how fast it is verified.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use direct_puppet_benches::{Random, SEED};

use crate::bench::Bench;
use crate::measure::{Basis, Contender, in_turns};
use crate::paths::no_change::Settled;
use crate::table::{Goal, Rows};

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let mebibytes = if bench.is_quick { 256 } else { 1024 };
    let settled = Settled::new(bench, |tree| write_noise(&tree.join("large"), mebibytes << 20))?;
    let file = settled.node.root().join("tree/large");
    let contenders = vec![
        Contender::process(format!("verify, {mebibytes} MiB"), 0, || Ok(settled.node.command(&["verify"]))),
        Contender::process("floor: BLAKE3, mapped, all cores", 0, || {
            let mut command = bench.own(&["floor", "map"])?;
            command.arg(&file);
            Ok(command)
        }),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, map] = &series[..] else { unreachable!("two contenders") };
    let why = "every byte is copied out of the page cache, which takes a sixth of the CPU: a file that is truncated while it is mapped would kill \
               the process. Tried: pieces of 16 KiB to 1 MiB for each thread (all within 5 %, smaller ones slower), no window over what threads \
               read (none)";
    rows.speed(ours, map, Basis::Wall, Goal::AtLeast(0.9), why);
    Ok(())
}

/// Writes so many bytes that do not compress.
fn write_noise(path: &Path, bytes: usize) -> anyhow::Result<()> {
    let (mut random, mut file) = (Random::new(SEED), BufWriter::with_capacity(1 << 20, File::create(path)?));
    for _ in 0..bytes / 8 {
        file.write_all(&random.next().to_le_bytes())?;
    }
    Ok(file.flush()?)
}

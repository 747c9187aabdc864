//! From exec to the first byte on the wire, and how large the program is.

use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use direct_puppet_benches::make_tree;

use crate::bench::{Bench, NODE, stripped_size};
use crate::measure::{Contender, Sample, in_turns};
use crate::serving::thread_cpu_ms;
use crate::site::Site;
use crate::table::{Goal, Rows, Unit};

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// How long a first byte may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let (empty, site) = (bench.scratch("empty")?, Site::serve(bench, |tree| Ok(make_tree(tree, bench.files).map(drop)?))?);
    let node = site.node(bench)?;
    node.apply()?;
    let settled = node.state();
    let large = format!("CPU to the first byte, state of {} files", bench.files);
    let contenders = vec![
        Contender::new("CPU to the first byte, no state", || first_byte(bench, empty.path())),
        Contender::new(large, || first_byte(bench, &settled)),
    ];
    for series in in_turns(bench.rounds, contenders) {
        let figure = series.samples.clone().map(|_| series.median(|sample| sample.cpu_ms).unwrap_or(f64::NAN));
        let why = "what is on disk is read before the check-in names it";
        rows.limit((&series.name, figure), Unit::Milliseconds, Goal::AtMost(10.0), why);
    }
    for program in [&bench.agent, &bench.server] {
        let size = stripped_size(program, bench.dir()).map(|size| size as f64).map_err(|error| format!("gap: {error:#}"));
        let name = format!("{}, stripped", program.file_name().unwrap_or_default().display());
        let goal = if *program == bench.agent { Goal::AtMost(15.0 * MEBIBYTE) } else { Goal::None };
        let why = "four fifths are code, a tenth the tables to unwind it; no library is there twice. The code is generic, and there for each type anew. Tried: all of \
                   it compiled for size, as one unit with its libraries (fat LTO): 16.5 MiB, and 8 % more instructions in a run with nothing to do. So only what is \
                   seldom run is compiled for size";
        rows.limit((&name, size), Unit::Bytes, goal, why);
    }
    Ok(())
}

/// Has an agent ask a socket where nobody answers, and looks at its time when the first byte comes.
fn first_byte(bench: &Bench, state: &Path) -> anyhow::Result<Sample> {
    let dir = bench.scratch("socket")?;
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    let root = dir.path().join("root");
    std::fs::create_dir(&root)?;
    let begun = Instant::now();
    let mut agent = Command::new(&bench.agent)
        .args(["run", "--node", NODE, "--no-cache-on-failure", "--root"])
        .arg(&root)
        .arg("--state-dir")
        .arg(state)
        .arg("--server")
        .arg(format!("unix:{}", socket.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let sample = wait(&listener, begun, agent.id());
    agent.kill().context("the agent could not be stopped")?;
    agent.wait()?;
    sample
}

fn wait(listener: &UnixListener, begun: Instant, pid: u32) -> anyhow::Result<Sample> {
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(error) => bail!("the agent did not connect: {error}"),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0]).context("no byte came")?;
    let wall_ms = begun.elapsed().as_secs_f64() * 1e3;
    Ok(Sample { cpu_ms: thread_cpu_ms(pid)?, wall_ms, max_rss_bytes: 0 })
}

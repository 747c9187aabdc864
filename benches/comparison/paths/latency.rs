//! The same contents over a line with a round trip of 20 ms: wall time.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use direct_puppet_benches::make_tree;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::line::{FAR, Line};
use crate::measure::{Basis, Contender, Series, in_turns};
use crate::paths::bytes::edit_tree;
use crate::paths::fetch::{Contents, client};
use crate::peers::{copy, find, peer};
use crate::serving::Serving;
use crate::site::{Node, Site, number};
use crate::table::{Goal, Rows, Unit};

/// Requests of a run that needs no contents: check-in, facts, report.
const OTHER_REQUESTS: f64 = 3.0;

/// The far end has all ports for itself.
const RSYNC_PORT: &str = "8730";

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let line = match Line::new(bench) {
        Ok(line) => line,
        Err(error) => {
            rows.limit(("fetch", Err(format!("gap: {error:#}"))), Unit::Count, Goal::AtMost(20.0), "");
            return Ok(());
        }
    };
    let listen = format!("http://{FAR}:0");
    let server = line.far(&bench.server)?;
    let site = Site::serve_with(
        bench,
        |tree| Ok(make_tree(tree, bench.few).map(drop)?),
        server,
        &["--listen", &listen, "--allow-plain-http"],
    )?;
    let node = site.node(bench)?;
    let first = crate::site::outcome(&mut node.command_by(line.near(node.program())?, &["run"]))?;
    let requests = number(&first, &["wire", "requests"]).map(|requests| requests - OTHER_REQUESTS);
    let contents = Contents::of(bench, &site.tree())?;
    let series = turns(bench, &line, (&site, &node), &contents)?;
    let [ours, curl, rsync] = &series[..] else { unreachable!("three contenders") };

    let address = site.serving.url.trim_start_matches("http://").to_owned();
    let round_trip = line.round_trip_ms(&address)?;
    let ours_ms = ours.samples.clone().map(|_| ours.median(|sample| sample.wall_ms).unwrap_or(f64::NAN));
    let name = format!("round trips (of {round_trip:.1} ms) that a fetch takes");
    let why = "contents come packed, as an agent gets them off its server's machine; TCP's window, 10 segments at first, takes round trips to grow";
    rows.limit((&name, ours_ms.map(|ours| ours / round_trip)), Unit::Count, Goal::AtMost(20.0), why);
    rows.limit(("requests for contents", requests.map_err(|error| format!("{error:#}"))), Unit::Count, Goal::AtMost(2.0), "");
    rows.speed(ours, curl, Basis::Wall, Goal::AtLeast(3.0), why);
    rows.speed(ours, rsync, Basis::Wall, Goal::AtLeast(8.0), why);
    Ok(())
}

fn turns(bench: &Bench, line: &Line, (site, node): (&Site, &Node), contents: &Contents) -> anyhow::Result<Vec<Series>> {
    let this = std::env::current_exe()?;
    // An agent has it by the time at which it fetches.
    let catalog = node.catalog()?;
    let dir = bench.scratch("latency")?;
    let web = format!("{FAR}:8080");
    let nginx = find("nginx").and_then(|program| contents.nginx(line.far(&program)?, &web, false));
    let nginx = nginx.and_then(|mut nginx| Serving::start_silent(&mut nginx, || line.round_trip_ms(&web).is_ok()));
    let nginx = nginx.map_err(|error| format!("{error:#}"));
    let urls = dir.path().join("urls");
    write_urls(&contents.digests, &web, &urls)?;
    // rsync has the older version of each file, as a node would.
    let (old, changed) = (dir.path().join("old"), dir.path().join("changed"));
    make_tree(&old, bench.few)?;
    copy(&old, &changed)?;
    edit_tree(&changed, bench.few)?;
    let daemon = rsync_daemon(line, &changed, dir.path()).map_err(|error| format!("{error:#}"));
    let mut updated: Option<TempDir> = None;
    let contenders = vec![
        Contender::process("client, one fetch", 0, || {
            let own = client(bench, &["fetch-packed"], &site.serving.url, &catalog)?;
            let mut command = line.near(&this)?;
            command.args(own.get_args());
            Ok(command)
        }),
        Contender::process("curl --parallel 200, from nginx", 0, || {
            nginx.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            let mut command = line.near(&find("curl")?)?;
            command.args(["--silent", "--fail", "--parallel", "--parallel-max", "200", "-K"]).arg(&urls);
            Ok(command)
        }),
        Contender::process("rsync of 10,000 edited files", 0, || {
            daemon.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            let copied = bench.scratch("updated")?;
            copy(&old, copied.path())?;
            let mut command = line.near(&find("rsync")?)?;
            command.args(["-a", "--port", RSYNC_PORT]).arg(format!("rsync://{FAR}/tree/")).arg(copied.path().join(""));
            updated = Some(copied);
            Ok(command)
        }),
    ];
    let series = in_turns(bench.few_rounds(), contenders);
    drop(updated);
    Ok(series)
}

/// Writes a configuration of curl with a URL for each content.
fn write_urls(digests: &Path, address: &str, to: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for digest in fs::read(digests)?.as_chunks::<32>().0 {
        let digest = blake3::Hash::from_bytes(*digest);
        let _ = write!(text, "url = http://{address}/{digest}\noutput = /dev/null\n");
    }
    Ok(fs::write(to, text)?)
}

fn rsync_daemon(line: &Line, tree: &Path, dir: &Path) -> anyhow::Result<Serving> {
    peer("rsync")?;
    let config = dir.join("rsyncd.conf");
    let text = format!(
        "use chroot = no\nlock file = {}/lock\n[tree]\npath = {}\nuid = root\ngid = root\n",
        dir.display(),
        tree.display()
    );
    fs::write(&config, text)?;
    let mut command: Command = line.far(&find("rsync")?)?;
    command.args(["--daemon", "--no-detach", "--port", RSYNC_PORT, "--config"]).arg(&config);
    let address = format!("{FAR}:{RSYNC_PORT}");
    Serving::start_silent(&mut command, || line.round_trip_ms(&address).is_ok())
}

//! The steady check-in: replies by CPU time of the server, the decision alone, handshakes, memory of connections.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::authority;
use crate::bench::{Bench, NODE};
use crate::measure::{Basis, Contender, Sample, in_turns};
use crate::paths::fetch::{free_address, nginx_places};
use crate::peers::{find, peer, prepare};
use crate::programs::check_ins::{SERVER_NAME, held_body, path};
use crate::serving::Serving;
use crate::site::Site;
use crate::table::{Goal, Rows, Unit};

const KIBIBYTE: f64 = 1024.0;

/// Connections of the load, and how long it lasts.
const LOAD: [&str; 3] = ["-t1", "-c64", "-d3s"];

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    replies(bench, rows)?;
    decision(bench, rows)?;
    handshakes(bench, rows)
}

fn small_site(bench: &Bench, arguments: &[&str]) -> anyhow::Result<Site> {
    let fill = |tree: &Path| Ok(std::fs::write(tree.join("file"), "content\n")?);
    Site::serve_with(bench, fill, Command::new(&bench.server), arguments)
}

fn replies(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let dir = bench.scratch("load")?;
    let site = small_site(bench, &["--listen", "http://127.0.0.1:0"])?;
    let script = dir.path().join("check-in.lua");
    std::fs::write(&script, lua(&held_body(&site.serving.url, None)?))?;
    let address = free_address()?;
    let nginx = nginx(dir.path(), &address).map_err(|error| format!("{error:#}"));
    let contenders = vec![
        Contender::new("check-in over HTTP, for each reply", || {
            load(&site.serving, &[&format!("{}{}", site.serving.url, path())], Some(&script))
        }),
        Contender::new("nginx, return 200", || {
            let nginx = nginx.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            load(nginx, &[&format!("http://{address}/")], None)
        }),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, nginx] = &series[..] else { unreachable!("two contenders") };
    let why = "two thirds are the kernel's part of TCP, as for nginx; the decision takes 1.6 µs; plain hyper alone was at 0.86 of nginx";
    rows.speed(ours, nginx, Basis::Cpu, Goal::AtLeast(0.9), why);
    Ok(())
}

/// Returns the script that has wrk send a check-in.
fn lua(body: &[u8]) -> String {
    let mut text = String::from("wrk.method = \"POST\"\nwrk.body = \"");
    for byte in body {
        let _ = write!(text, "\\{byte:03}");
    }
    let content_type = direct_puppet_transport::http::wire::CONTENT_TYPE;
    let _ = write!(text, "\"\nwrk.headers[\"content-type\"] = \"{content_type}\"\n");
    text
}

fn nginx(dir: &Path, address: &str) -> anyhow::Result<Serving> {
    let config = format!(
        "daemon off; master_process off; error_log stderr crit; pid {dir}/nginx.pid;\nevents {{ worker_connections 4096; }}\n\
         http {{ access_log off; {places} keepalive_requests 10000000; server {{ listen {address}; location / {{ return 200; }} }} }}\n",
        dir = dir.display(),
        places = nginx_places(dir),
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = peer("nginx")?;
    command.args(["-e", "stderr", "-c"]).arg(&path);
    Serving::start_silent(&mut command, || TcpStream::connect(address).is_ok())
}

/// Loads a server and returns what each reply cost it.
fn load(server: &Serving, arguments: &[&str], script: Option<&Path>) -> anyhow::Result<Sample> {
    let mut wrk = Command::new(find("wrk").map_err(|error| anyhow::anyhow!("gap: {error:#}"))?);
    wrk.args(LOAD);
    if let Some(script) = script {
        wrk.arg("-s").arg(script);
    }
    let before = server.cpu_ms()?;
    let said = prepare(wrk.args(arguments))?;
    let cpu_ms = server.cpu_ms()? - before;
    let replies = replies_of(&String::from_utf8_lossy(&said))?;
    Ok(Sample { cpu_ms: cpu_ms / replies, wall_ms: 0.0, max_rss_bytes: 0 })
}

/// Returns how many replies wrk counted.
fn replies_of(said: &str) -> anyhow::Result<f64> {
    if let Some(line) = said.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        bail!("wrk: {}", line.trim());
    }
    let line = said.lines().find(|line| line.contains(" requests in ")).context("wrk did not say how many replies came")?;
    let replies: f64 = line.split_whitespace().next().context("no figure")?.parse()?;
    if replies < 1.0 { bail!("no reply came") } else { Ok(replies) }
}

fn decision(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let nodes = if bench.is_quick { 100_000 } else { 1_000_000 };
    let ours = decision_ms(bench, nodes).map_err(|error| format!("{error:#}"));
    let name = format!("decision, {nodes} nodes known");
    rows.limit((&name, ours), Unit::Milliseconds, Goal::AtMost(0.002), "memory that is not in the cache: each node is another");
    Ok(())
}

/// Returns the median of several processes' decisions.
pub(super) fn decision_ms(bench: &Bench, nodes: usize) -> anyhow::Result<f64> {
    let turn = || {
        let mut command = bench.own(&["decide", "--nodes", &nodes.to_string(), "--check-ins", "200000"])?;
        let said = prepare(command.env("TMPDIR", bench.dir()))?;
        let microseconds: f64 = String::from_utf8_lossy(&said).trim().parse()?;
        Ok(Sample { cpu_ms: microseconds / 1e3, wall_ms: 0.0, max_rss_bytes: 0 })
    };
    let series = in_turns(bench.few_rounds(), vec![Contender::new("decision", turn)]);
    series[0].samples.clone().map_err(anyhow::Error::msg)?;
    series[0].median(|sample| sample.cpu_ms).context("no turn")
}

fn handshakes(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let dir = bench.scratch("tls")?;
    let ssldir = dir.path().join("ssl");
    authority::make(&ssldir, &[NODE, SERVER_NAME])?;
    let ssl = ssldir.display().to_string();
    let plain = small_site(bench, &["--listen", "http://127.0.0.1:0"])?;
    let tls = small_site(bench, &["--listen", "https://127.0.0.1:0", "--ssldir", &ssl, "--certname", SERVER_NAME])?;
    let url = tls.serving.url.replace("127.0.0.1", SERVER_NAME);
    let count = if bench.is_quick { 200 } else { 1000 };
    let contenders = vec![
        Contender::new("check-in over mutual TLS, accepted and closed", || {
            check_ins(bench, &tls.serving, &url, &ssl, count, false)
        }),
        Contender::new("the same, session resumed", || check_ins(bench, &tls.serving, &url, &ssl, count, true)),
    ];
    let series = in_turns(bench.rounds, contenders);
    for (series, limit) in series.iter().zip([0.6, 0.35]) {
        let figure = series.samples.clone().map(|_| series.median(|sample| sample.cpu_ms).unwrap_or(f64::NAN));
        let why = "signatures: the handshake's two, and the check of the node's certificate; a resumed session has none";
        rows.limit((&series.name, figure), Unit::Milliseconds, Goal::AtMost(limit), why);
    }
    let connections = if bench.is_quick { 500 } else { 4000 };
    for (name, site, url, ssl) in [("HTTP", &plain, &plain.serving.url, None), ("mutual TLS", &tls, &url, Some(&ssl))] {
        let figure = idle(bench, &site.serving, url, ssl, connections).map_err(|error| format!("{error:#}"));
        let name = format!("memory of an idle connection, {name}");
        let why = "most are buffers of the HTTP and TLS libraries";
        rows.limit((&name, figure), Unit::Bytes, Goal::AtMost(20.0 * KIBIBYTE), why);
    }
    Ok(())
}

/// Returns what each of many check-ins, each over a connection of its own, cost the server.
fn check_ins(bench: &Bench, server: &Serving, url: &str, ssl: &str, count: usize, resume: bool) -> anyhow::Result<Sample> {
    let mut command = bench.own(&["check-ins", url, "--ssldir", ssl, "--count", &count.to_string()])?;
    if resume {
        command.arg("--resume");
    }
    let before = server.cpu_ms()?;
    prepare(&mut command)?;
    Ok(Sample { cpu_ms: (server.cpu_ms()? - before) / count as f64, wall_ms: 0.0, max_rss_bytes: 0 })
}

/// Returns what each of many connections that have checked in once takes of the server's memory.
fn idle(bench: &Bench, server: &Serving, url: &str, ssl: Option<&String>, count: usize) -> anyhow::Result<f64> {
    let before = server.rss_bytes()?;
    let mut command = bench.own(&["check-ins", url, "--hold", "--count", &count.to_string()])?;
    if let Some(ssl) = ssl {
        command.args(["--ssldir", ssl]);
    }
    let holding = Serving::start(&mut command)?;
    let each = (server.rss_bytes()? - before) / count as f64;
    drop(holding);
    Ok(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_counted_and_failures_are_not() {
        let said = "Running 3s test @ http://127.0.0.1:1/\n  150 requests in 3.00s, 1.2MB read\nRequests/sec: 50.0\n";
        assert_eq!(replies_of(said).unwrap(), 150.0);
        let failed = format!("{said}  Non-2xx or 3xx responses: 150\n");
        assert!(replies_of(&failed).unwrap_err().to_string().contains("Non-2xx"));
        assert!(replies_of("  0 requests in 3.00s, 0B read").is_err());
        assert!(replies_of("").is_err());
    }

    #[test]
    fn a_body_of_any_bytes_fits_into_a_script() {
        assert!(lua(&[0, 10, 34, 92, 255]).contains("wrk.body = \"\\000\\010\\034\\092\\255\"\n"));
    }
}

//! Beside a real Puppet Server: catalogs, small contents, memory and start, for the same code, node, facts and certificates.
//!
//! The code is the sample control repo of `tests/sites/control`: 129 resources of many types, Hiera, templates, types and functions. Both
//! servers answer the same requests of Puppet's HTTP API, over four connections with client certificates that stay open. What counts is the
//! CPU time of a server, with all its threads and processes, for each answer; who asks is not counted.
//!
//! Puppet Server compiles for each request, so that its catalog stands against our cached and our compiled one. Before it is measured it has
//! answered as many as it takes until batches get no cheaper, for its compilers (Java's and JRuby's) go on for hundreds of requests.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use direct_puppet_transport::http::wire::CONTENT_TYPE;
use hyper::Method;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::authority;
use crate::bench::{Bench, NODE};
use crate::measure::{Basis, Contender, Sample, Series, in_turns};
use crate::peers::{copy, find, prepare};
use crate::programs::check_ins::{self, SERVER_NAME};
use crate::puppet_server::{self, Running};
use crate::requests::{Client, Question, Until};
use crate::serving::Serving;
use crate::table::{Goal, Rows, Unit};

/// The sample code, and the node that it is for.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/sites/control/environments/production");
const SAMPLE_NODE: &str = "agent01.lab.test";

/// A small content, in the module `files`.
const SMALL: &str = "small.txt";
const SMALL_BYTES: usize = 1024;

/// How long a turn of requests that are cheap lasts.
const TURN: Duration = Duration::from_secs(3);

/// Catalogs that are compiled in a turn, and in a batch of those before.
const BATCH: usize = 20;

/// Puppet Server is warm when a batch saves less than this part of the cheapest before, or after so many batches.
const SETTLED: f64 = 0.03;
const BATCHES: (usize, usize) = (5, 25);

/// Contents of each kind that it is asked for before.
const WARM_CONTENTS: usize = 3000;

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    // Without Puppet's library neither can compile.
    find("puppet").map_err(|error| anyhow::anyhow!("gap: {error:#}"))?;
    let site = Site::new(bench)?;
    let theirs = Theirs::start(bench, &site).map_err(|error| format!("{error:#}"));
    let theirs = theirs.as_ref();
    let (ours, start, first) = site.start_in_turns(bench)?;
    requests(bench, rows, &site, &ours, theirs)?;
    let why = "the server holds what is live; a warm Ruby process holds Puppet's library";
    for (name, figure) in [
        ("resident memory after that, with Ruby's processes", ours.serving.tree_rss_bytes()),
        ("resident memory after that, the server alone", ours.serving.rss_bytes()),
    ] {
        let figure = figure.map_err(|error| format!("{error:#}"));
        let other = theirs
            .map_err(Clone::clone)
            .and_then(|theirs| theirs.running.serving.tree_rss_bytes().map_err(|error| format!("{error:#}")));
        rows.figures((name, figure), ("Puppet Server, heap of 1 GiB", other), Unit::Bytes, Goal::AtMost(0.1), why);
    }
    let once = |sample: fn(&Theirs) -> Sample| Series {
        name: "Puppet Server, once".to_owned(),
        samples: theirs.map(|theirs| vec![sample(theirs)]).map_err(Clone::clone),
    };
    rows.ratio(&start, &once(|theirs| theirs.start), Basis::Cpu, Goal::None, "");
    rows.ratio(&first, &once(|theirs| theirs.first), Basis::Cpu, Goal::None, "");
    Ok(())
}

fn requests(bench: &Bench, rows: &mut Rows, site: &Site, ours: &Running, theirs: Result<&Theirs, &String>) -> anyhow::Result<()> {
    let theirs = || theirs.map_err(|error| anyhow::anyhow!("{error}"));
    let catalog = site.catalog()?;
    let (file, versioned) = (file_content(), static_content(ours, &catalog)?);
    let check_in = Question {
        method: Method::POST,
        path: check_ins::path(),
        headers: vec![("content-type", CONTENT_TYPE.to_owned())],
        body: check_ins::held_body(&site.url(ours), Some(&site.ssldir()))?.into(),
    };
    let briefly = |running: &Running, question: &Question| cost(running, || running.client.load(question, Until::Elapsed(TURN)));
    let compiled = || cost(ours, || (0..BATCH).try_fold(0, |count, _| site.recompiled(ours, &catalog).map(|()| count + 1)));
    let warmed = theirs().map_or(0, |theirs| theirs.warmed);
    let contenders = vec![
        Contender::new("catalog of unchanged code, Puppet's API", || briefly(ours, &catalog)),
        Contender::new("check-in of our agent, unchanged code", || briefly(ours, &check_in)),
        Contender::new("catalog, compiled", compiled),
        Contender::new(format!("Puppet Server's catalog, after {warmed}"), || {
            let running = &theirs()?.running;
            cost(running, || running.client.load(&catalog, Until::Answers(BATCH)))
        }),
        Contender::new("file_content, 1 KiB", || briefly(ours, &file)),
        Contender::new("static_file_content, 1 KiB", || briefly(ours, &versioned)),
        Contender::new("Puppet Server's file_content", || briefly(&theirs()?.running, &file)),
        Contender::new("Puppet Server's static_file_content, by cat", || {
            let theirs = theirs()?;
            briefly(&theirs.running, &theirs.versioned)
        }),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [cached, check_in, compiled, catalog, file, versioned, their_file, their_versioned] = &series[..] else {
        unreachable!("eight contenders")
    };
    let (thousand, hundred) = (Goal::AtLeast(1000.0), Goal::AtLeast(100.0));
    let why = "an answer over TLS costs what the kernel's part of TCP, encryption and HTTP do";
    rows.speed(
        cached,
        catalog,
        Basis::Cpu,
        thousand,
        "the form with the facts is read, and the whole catalog encrypted, each time",
    );
    rows.speed(check_in, catalog, Basis::Cpu, thousand, why);
    rows.speed(compiled, catalog, Basis::Cpu, Goal::None, "");
    rows.speed(file, their_file, Basis::Cpu, hundred, why);
    rows.speed(versioned, their_versioned, Basis::Cpu, hundred, why);
    Ok(())
}

/// Returns what each answer costs a server with all its processes.
fn cost(running: &Running, load: impl FnOnce() -> anyhow::Result<usize>) -> anyhow::Result<Sample> {
    let before = running.so_far()?;
    let answers = load()?.max(1) as f64;
    let after = running.so_far()?;
    let (cpu_ms, wall_ms) = ((after.cpu_ms - before.cpu_ms) / answers, (after.wall_ms - before.wall_ms) / answers);
    Ok(Sample { cpu_ms, wall_ms, max_rss_bytes: 0 })
}

fn file_content() -> Question {
    content(format!("/puppet/v3/file_content/modules/files/{SMALL}?environment=production"))
}

/// Returns the question for the same file, as a catalog has it.
fn static_content(running: &Running, catalog: &Question) -> anyhow::Result<Question> {
    let document: Json = serde_json::from_slice(&running.client.ask(catalog)?).context("the catalog is no JSON")?;
    let code_id = document["code_id"].as_str().context("the catalog is not static: it has no code_id")?;
    Ok(content(format!("/puppet/v3/static_file_content/modules/files/files/{SMALL}?environment=production&code_id={code_id}")))
}

fn content(path: String) -> Question {
    let headers = vec![("accept", "application/octet-stream".to_owned())];
    Question { method: Method::GET, path, headers, body: Bytes::new() }
}

/// The code, a node's facts, and certificates.
struct Site {
    dir: TempDir,
    server: PathBuf,
    facts: Json,
}

impl Site {
    fn new(bench: &Bench) -> anyhow::Result<Self> {
        let site = Self { dir: bench.scratch("control")?, server: bench.server.clone(), facts: facts(bench)? };
        let environment = site.environment();
        copy(SAMPLE.as_ref(), &environment)?;
        let manifest = environment.join("manifests/site.pp");
        fs::write(&manifest, fs::read_to_string(&manifest)?.replace(SAMPLE_NODE, NODE))?;
        let data = |node: &str| environment.join(format!("data/nodes/{node}.yaml"));
        fs::rename(data(SAMPLE_NODE), data(NODE))?;
        fs::write(environment.join("modules/files/files").join(SMALL), "x".repeat(SMALL_BYTES))?;
        authority::make(&site.ssldir(), &[NODE, SERVER_NAME])?;
        Ok(site)
    }

    fn environment(&self) -> PathBuf {
        self.dir.path().join("staging/environments/production")
    }

    fn ssldir(&self) -> PathBuf {
        self.dir.path().join("ssl")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn url(&self, running: &Running) -> String {
        format!("https://{SERVER_NAME}:{}", running.client.address().port())
    }

    /// Returns what an agent of Puppet 7 posts: a form with its facts, encoded twice.
    fn catalog(&self) -> anyhow::Result<Question> {
        let facts = serde_json::to_string(&json!({ "name": NODE, "values": self.facts }))?;
        let twice = encoded(&encoded(&facts));
        let body = format!(
            "environment=production&facts_format=application%2Fjson&facts={twice}&static_catalog=true&checksum_type=sha256.sha256lite.md5"
        );
        let accept = "application/vnd.puppet.rich+json, application/json, text/pson";
        Ok(Question {
            method: Method::POST,
            path: format!("/puppet/v3/catalog/{NODE}?environment=production"),
            headers: vec![
                ("accept", accept.to_owned()),
                ("content-type", "application/x-www-form-urlencoded".to_owned()),
                ("x-puppet-version", "7.23.0".to_owned()),
            ],
            body: body.into(),
        })
    }

    /// Starts our server.
    fn start(&self) -> anyhow::Result<Running> {
        let mut command = Command::new(&self.server);
        command.arg("serve").arg("--data").arg(self.data()).arg("--staging").arg(self.dir.path().join("staging"));
        command.args(["--listen", "https://127.0.0.1:0", "--certname", SERVER_NAME, "--ssldir"]).arg(self.ssldir());
        // What the code warns of is no news.
        command.stderr(Stdio::null());
        let begun = Instant::now();
        let serving = Serving::start(&mut command)?;
        let address: SocketAddr = serving.url.trim_start_matches("https://").parse().context("where it listens")?;
        let client = Client::new(&self.ssldir(), address)?;
        anyhow::ensure!(puppet_server::is_running(&client), "our server does not say that it runs");
        Ok(Running { serving, client, begun, dir: None })
    }

    fn verb(&self, arguments: &[&str]) -> anyhow::Result<()> {
        prepare(Command::new(&self.server).args(arguments).arg("--data").arg(self.data())).map(drop)
    }

    /// Has a catalog compiled for code that has not changed.
    fn recompiled(&self, ours: &Running, catalog: &Question) -> anyhow::Result<()> {
        self.verb(&["recompile", NODE])?;
        ours.client.ask(catalog).map(drop)
    }

    /// Starts our server again and again, with the code and without a catalog. Returns the last, what starts cost to the answer that it runs,
    /// and to the first catalog, for which Ruby is started.
    fn start_in_turns(&self, bench: &Bench) -> anyhow::Result<(Running, Series, Series)> {
        let catalog = self.catalog()?;
        let running = self.start()?;
        self.verb(&["publish"])?;
        running.client.ask(&catalog)?;
        let (mut running, mut started, mut compiled) = (Some(running), Vec::new(), Vec::new());
        for _ in 0..bench.rounds.count {
            self.verb(&["recompile", NODE])?;
            drop(running.take());
            let now = self.start()?;
            started.push(now.so_far()?);
            now.client.ask(&catalog)?;
            compiled.push(now.so_far()?);
            running = Some(now);
        }
        let series = |name: &str, samples| Series { name: name.to_owned(), samples: Ok(samples) };
        let running = running.context("no turn")?;
        Ok((running, series("start to the answer that it runs", started), series("start to the first catalog", compiled)))
    }
}

/// Facts of this machine, as many as a node sends, and those that the sample code asks for.
fn facts(bench: &Bench) -> anyhow::Result<Json> {
    let mut facts: Json = serde_json::from_slice(&prepare(Command::new(&bench.agent).args(["facts", "--json"]))?)?;
    let more = json!({
        "os": {"name": "Debian", "family": "Debian", "release": {"full": "12.11", "major": "12", "minor": "11"}, "architecture": "amd64"},
        "osfamily": "Debian", "lab_root": "/var/tmp/lab/root", "lab_shape": {"round": true, "sides": 0},
        "clientcert": NODE, "clientversion": "7.23.0", "clientnoop": false,
    });
    let all = facts.as_object_mut().context("the agent's facts are no object")?;
    all.extend(more.as_object().cloned().unwrap_or_default());
    Ok(facts)
}

/// Encodes for a form, as Ruby does.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(2 * text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// Puppet Server, warmed.
struct Theirs {
    running: Running,
    start: Sample,
    first: Sample,
    /// How many catalogs it had compiled before it was measured.
    warmed: usize,
    versioned: Question,
}

impl Theirs {
    fn start(bench: &Bench, site: &Site) -> anyhow::Result<Self> {
        let catalog = site.catalog()?;
        let running = puppet_server::start(bench, &site.environment(), &site.ssldir())?;
        let start = running.so_far()?;
        let versioned = static_content(&running, &catalog)?;
        let first = running.so_far()?;
        let (mut cheapest, mut warmed) = (f64::INFINITY, 1);
        let (at_least, at_most) = if bench.is_quick { (1, 2) } else { BATCHES };
        for batch in 1..=at_most {
            let now = cost(&running, || running.client.load(&catalog, Until::Answers(BATCH)))?.cpu_ms;
            warmed += BATCH;
            if batch >= at_least && now > cheapest * (1.0 - SETTLED) {
                break;
            }
            cheapest = cheapest.min(now);
        }
        let contents = if bench.is_quick { WARM_CONTENTS / 10 } else { WARM_CONTENTS };
        for question in [&file_content(), &versioned] {
            running.client.load(question, Until::Answers(contents))?;
        }
        Ok(Self { running, start, first, warmed, versioned })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_encoded_as_puppet_does() {
        assert_eq!(encoded("a b{\"ä\": 1~}"), "a%20b%7B%22%C3%A4%22%3A%201~%7D");
        assert_eq!(encoded(&encoded("{")), "%257B");
    }
}

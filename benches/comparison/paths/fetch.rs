//! Many small contents over loopback: CPU of the client.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use direct_puppet_benches::make_tree;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::floors::pack;
use crate::measure::{Basis, Contender, in_turns};
use crate::peers::find;
use crate::programs::fetch::write_digests;
use crate::serving::Serving;
use crate::site::Site;
use crate::table::{Goal, Rows};

/// Contents in the forms that servers of others need.
pub(super) struct Contents {
    pub(super) packed: PathBuf,
    pub(super) digests: PathBuf,
    /// A link for each content, named by its digest.
    pub(super) by_digest: PathBuf,
    dir: TempDir,
}

impl Contents {
    pub(super) fn of(bench: &Bench, tree: &Path) -> anyhow::Result<Self> {
        let dir = bench.scratch("contents")?;
        let [packed, digests, by_digest] = ["packed", "digests", "by-digest"].map(|name| dir.path().join(name));
        pack(tree, &packed)?;
        write_digests(tree, &digests)?;
        std::fs::create_dir(&by_digest)?;
        for entry in walkdir::WalkDir::new(tree) {
            let entry = entry?;
            if entry.file_type().is_file() {
                let link = by_digest.join(blake3::hash(&std::fs::read(entry.path())?).to_string());
                if !link.is_symlink() {
                    symlink(entry.path(), link)?;
                }
            }
        }
        Ok(Self { packed, digests, by_digest, dir })
    }

    /// Returns a command of nginx over the contents, with HTTP/2 without TLS when wanted; `command` ends with its program.
    pub(super) fn nginx(&self, mut command: Command, address: &str, http2: bool) -> anyhow::Result<Command> {
        let version = if http2 { " http2" } else { "" };
        let places = nginx_places(self.dir.path());
        let config = format!(
            "daemon off; master_process off; worker_rlimit_nofile 65536; error_log stderr crit; pid {dir}/nginx.pid;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; {places} keepalive_requests 10000000; http2_max_concurrent_streams 1000; sendfile on;\n\
             server {{ listen {address}{version}; root {root}; }} }}\n",
            dir = self.dir.path().display(),
            root = self.by_digest.display()
        );
        let path = self.dir.path().join("nginx.conf");
        std::fs::write(&path, config)?;
        command.args(["-e", "stderr", "-c"]).arg(&path);
        Ok(command)
    }
}

/// Places that nginx wants even when it keeps nothing there.
pub(super) fn nginx_places(dir: &Path) -> String {
    let place = |name: &&str| format!("{name}_temp_path {}/{name};", dir.display());
    ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].iter().map(place).collect::<Vec<_>>().join(" ")
}

/// Returns an address on loopback that was free a moment ago, for servers that cannot tell which they were given.
pub(crate) fn free_address() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.to_string())
}

/// Returns a client of this program as a command.
pub(super) fn client(bench: &Bench, client: &[&str], address: &str, digests: &Path) -> anyhow::Result<Command> {
    let mut command = bench.own(client)?;
    command.arg(address).arg(digests);
    Ok(command)
}

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let site = Site::serve(bench, |tree| Ok(make_tree(tree, bench.few).map(drop)?))?;
    // Whoever fetches must have a catalog.
    site.node(bench)?.run(&["run", "--noop"])?;
    let contents = Contents::of(bench, &site.tree())?;
    let framed = Serving::start(bench.own(&["serve-framed", "127.0.0.1:0"])?.arg(&contents.packed))?;
    let address = free_address()?;
    let nginx = find("nginx").and_then(|program| contents.nginx(Command::new(program), &address, true));
    let nginx = nginx.and_then(|mut nginx| Serving::start_silent(&mut nginx, || TcpStream::connect(&address).is_ok()));
    let nginx = nginx.map_err(|error| format!("{error:#}"));
    let contenders = vec![
        Contender::process("client, one fetch", 0, || client(bench, &["fetch"], &site.serving.url, &contents.digests)),
        Contender::process("floor: framed stream", 0, || client(bench, &["floor", "framed"], &framed.url, &contents.digests)),
        Contender::process("one HTTP/2 request each, from nginx", 0, || {
            nginx.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            client(bench, &["floor", "http2"], &address, &contents.digests)
        }),
    ];
    let series = in_turns(bench.rounds, contenders);
    let [ours, framed, http2] = &series[..] else { unreachable!("three contenders") };
    let why = "most is BLAKE3 and the kernel's copies, as in the floor; the rest is HTTP/1.1, its runtime and the frames. The server is waited for half of the time: it hashes what it sends";
    rows.ratio(ours, framed, Basis::Cpu, Goal::AtMost(1.3), why);
    rows.ratio(ours, http2, Basis::Cpu, Goal::AtMost(0.25), why);
    Ok(())
}

//! Ours beside Puppet's own agent: 5,000 files of 1 KiB, each a resource with a source and its checksum, as in a static catalog.
//!
//! The agent applies a catalog that is compiled beforehand (`puppet apply --catalog`): no server, no request, no plugins to compare, no
//! facts to send. That is less than a real run does.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::bench::Bench;
use crate::measure::{Basis, Contender, Rounds, in_turns};
use crate::peers::{peer, prepare};
use crate::site::{Node, Site};
use crate::table::{Goal, Rows};

const FILES: usize = 5000;
const FILE_BYTES: usize = 1024;

fn fill(tree: &Path) -> anyhow::Result<()> {
    for number in 0..FILES {
        let mut content = format!("file {number}\n").repeat(FILE_BYTES);
        content.truncate(FILE_BYTES);
        fs::write(tree.join(format!("f{number}")), content)?;
    }
    Ok(())
}

pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    let site = Site::serve(bench, fill)?;
    let puppet = Puppet::new(bench, &site.tree()).map_err(|error| format!("{error:#}"));
    let puppet = || puppet.as_ref().map_err(|error| anyhow::anyhow!("{error}"));
    let mut nodes: Vec<Node> = Vec::new();
    let contenders = vec![
        Contender::process("first run", 2, || {
            nodes.push(site.node(bench)?);
            Ok(nodes[nodes.len() - 1].command(&["run"]))
        }),
        Contender::process("puppet apply of a catalog, first", 0, || puppet()?.apply_first()),
    ];
    let series = in_turns(Rounds { count: 1, warm_up: false }, contenders);
    let [ours, theirs] = &series[..] else { unreachable!("two contenders") };
    rows.ratio(
        ours,
        theirs,
        Basis::Cpu,
        Goal::AtMost(1.0 / 200.0),
        "nine tenths are the kernel's, above all the making of three names for each file; see the first apply",
    );

    let node = site.node(bench)?;
    node.apply()?;
    node.settle()?;
    let contenders = vec![
        Contender::process("run, nothing changed", 0, || Ok(node.command(&["run"]))),
        Contender::process("puppet apply of a catalog, nothing changed", 0, || Ok(puppet()?.apply())),
    ];
    let series = in_turns(bench.few_rounds(), contenders);
    let [ours, theirs] = &series[..] else { unreachable!("two contenders") };
    rows.ratio(
        ours,
        theirs,
        Basis::Cpu,
        Goal::AtMost(1.0 / 500.0),
        "the start of the process and the check-in, which do not depend on the number of files",
    );
    Ok(())
}

/// A Puppet that has a catalog.
struct Puppet {
    program: PathBuf,
    root: PathBuf,
    dir: TempDir,
}

impl Puppet {
    fn new(bench: &Bench, tree: &Path) -> anyhow::Result<Self> {
        let program = PathBuf::from(peer("puppet")?.get_program());
        let dir = bench.scratch("puppet")?;
        let puppet = Self { program, root: dir.path().join("root"), dir };
        let mut manifest = String::new();
        for number in 0..FILES {
            let source = tree.join(format!("f{number}"));
            let checksum =
                Sha256::digest(fs::read(&source)?).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            let _ = writeln!(
                manifest,
                "file {{ '{}/f{number}': ensure => file, source => 'file://{}', checksum => sha256, checksum_value => '{checksum}' }}",
                puppet.root.display(),
                source.display()
            );
        }
        let path = puppet.dir.path().join("site.pp");
        fs::write(&path, manifest)?;
        let mut compile =
            puppet.command(&["catalog", "compile", "node1.example.com", "--render-as", "json", "--log_level", "err"]);
        compile.args(["--certname", "node1.example.com", "--manifest"]).arg(path);
        fs::write(puppet.catalog(), prepare(&mut compile)?)?;
        Ok(puppet)
    }

    fn catalog(&self) -> PathBuf {
        self.dir.path().join("catalog.json")
    }

    fn command(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(verb);
        for place in ["confdir", "codedir", "vardir", "rundir", "logdir", "ssldir"] {
            command.arg(format!("--{place}")).arg(self.dir.path().join(place));
        }
        command
    }

    fn apply(&self) -> Command {
        let mut command = self.command(&["apply", "--certname", "node1.example.com", "--log_level", "err", "--color", "false"]);
        command.arg("--catalog").arg(self.catalog());
        command
    }

    fn apply_first(&self) -> anyhow::Result<Command> {
        let _not_there = fs::remove_dir_all(&self.root);
        fs::create_dir(&self.root)?;
        Ok(self.apply())
    }
}

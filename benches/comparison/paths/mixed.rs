//! Ours beside Puppet's own agent: one catalog of 5,000 resources of many types, nothing changed.
//!
//! Both apply the same file (`apply --catalog`) in one mount namespace with an `/etc`, a `/var/spool/cron` and a `/mnt` of its own. It is made before
//! anything is measured; entering it (`nsenter`) is measured with both: a millisecond or two.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::bench::{Bench, need_root};
use crate::measure::{Basis, Contender, in_turns};
use crate::peers::{peer, prepare};
use crate::table::{Goal, Rows, Unit};

/// Numbers of resources; packages are those that the machine has, 500 at the most, and files make up for the rest.
const RESOURCES: usize = 5000;
const COMMANDS: usize = 700;
/// Of the commands, those that have another one as their condition: processes cost both the same.
const CONDITIONS: usize = 10;
const PACKAGES: usize = 500;
const SERVICES: usize = 10;
const USERS: usize = 400;
const GROUPS: usize = 500;
const JOBS: usize = 350;
const HOSTS: usize = 500;

/// Makes the namespace of the directory `$1`, says so, and keeps it until its input ends.
const HOLD: &str = r#"mount --make-rprivate / && mount --bind "$1/etc" /etc && mount --bind "$1/cron" /var/spool/cron &&
mount --bind "$1/mnt" /mnt && echo ready && exec cat"#;

/// The most that ours may hold, in bytes.
const MOST_MEMORY: f64 = 64.0 * 1024.0 * 1024.0;

#[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^53")]
pub(super) fn measure(bench: &Bench, rows: &mut Rows) -> anyhow::Result<()> {
    need_root().map_err(|error| anyhow::anyhow!("gap: {error:#}"))?;
    let world = World::new(bench)?;
    let namespace = Namespace::new(world.dir.path())?;
    let puppet = peer("puppet").map(|command| PathBuf::from(command.get_program())).map_err(|error| format!("{error:#}"));
    let contenders = vec![
        Contender::process("apply --catalog, mixed types, nothing changed", 0, || {
            let mut command = namespace.command(&bench.agent, &["apply", "--catalog"]);
            command.arg(world.path("catalog.json")).arg("--state-dir").arg(world.path("state"));
            Ok(command)
        }),
        Contender::process("puppet apply of the same catalog", 0, || {
            let program = puppet.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            let mut command = namespace.command(program, &["apply", "--log_level", "err", "--color", "false", "--catalog"]);
            command.arg(world.path("catalog.json"));
            for place in ["confdir", "codedir", "vardir", "rundir", "logdir", "ssldir"] {
                command.arg(format!("--{place}")).arg(world.path(place));
            }
            Ok(command)
        }),
    ];
    let series = in_turns(bench.few_rounds(), contenders);
    let [ours, theirs] = &series[..] else { unreachable!("two contenders") };
    rows.ratio(ours, theirs, Basis::Cpu, Goal::AtMost(1.0 / 200.0), "see benches/README.md");
    let memory = ours.samples.clone().map(|_| ours.median(|sample| sample.max_rss_bytes as f64).unwrap_or(f64::NAN));
    rows.limit(("resident memory, mixed types", memory), Unit::Bytes, Goal::AtMost(MOST_MEMORY), "");
    Ok(())
}

/// A machine on which everything is as its catalog says.
struct World {
    dir: TempDir,
    resources: Vec<Json>,
}

impl World {
    fn new(bench: &Bench) -> anyhow::Result<Self> {
        let mut world = Self { dir: bench.scratch("mixed")?, resources: Vec::new() };
        for dir in ["cron/crontabs", "mnt"] {
            fs::create_dir_all(world.path(dir))?;
        }
        prepare(Command::new("cp").args(["-a", "/etc"]).arg(world.path("etc")))?;
        world.accounts()?;
        world.lines()?;
        world.packages()?;
        for number in 0..SERVICES {
            let pattern = format!("no-such-daemon-{number}");
            world.add("Service", &format!("bench{number}"), json!({"ensure": "stopped", "provider": "base", "pattern": pattern}));
        }
        for number in 0..COMMANDS {
            let creates = format!("/mnt/f{number}");
            let condition = if number < CONDITIONS { json!({"unless": "/bin/true"}) } else { json!({"creates": creates}) };
            let mut parameters = json!({"command": "/bin/false"});
            parameters.as_object_mut().into_iter().for_each(|all| all.extend(condition.as_object().cloned().unwrap_or_default()));
            world.add("Exec", &format!("bench{number}"), parameters);
        }
        for number in 0..RESOURCES.saturating_sub(world.resources.len()) {
            let content = format!("content of {number}\n").repeat(30);
            let file = world.path(&format!("mnt/f{number}"));
            fs::write(&file, &content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
            let parameters = json!({"ensure": "file", "content": content, "mode": "0644", "owner": "root", "group": "root"});
            world.add("File", &format!("/mnt/f{number}"), parameters);
        }
        world.write_catalog()?;
        Ok(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn add(&mut self, resource_type: &str, title: &str, parameters: Json) {
        let tags = [resource_type.to_lowercase(), "class".to_owned()];
        self.resources.push(json!({"type": resource_type, "title": title, "parameters": parameters, "tags": tags,
            "kind": "compilable_type", "exported": false, "file": "/site.pp", "line": 1}));
    }

    /// Adds lines to a file of `/etc`.
    fn append(&self, name: &str, lines: &str) -> anyhow::Result<()> {
        let path = self.path("etc").join(name);
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        text.push_str(lines);
        Ok(fs::write(path, text)?)
    }

    fn accounts(&mut self) -> anyhow::Result<()> {
        let (mut users, mut passwords, mut groups) = (String::new(), String::new(), String::new());
        for number in 0..USERS {
            let (name, id) = (format!("bench{number}"), 20_000 + number);
            writeln!(users, "{name}:x:{id}:{id}::/home/{name}:/bin/sh")?;
            writeln!(passwords, "{name}:!:19000:0:99999:7:::")?;
            self.add("User", &name, json!({"ensure": "present", "uid": id, "gid": id, "shell": "/bin/sh"}));
        }
        for number in 0..GROUPS {
            let (name, id) = (format!("bench{number}"), 20_000 + number);
            writeln!(groups, "{name}:x:{id}:")?;
            self.add("Group", &name, json!({"ensure": "present", "gid": id}));
        }
        self.append("passwd", &users)?;
        self.append("shadow", &passwords)?;
        self.append("group", &groups)
    }

    /// Makes hosts and jobs of cron.
    fn lines(&mut self) -> anyhow::Result<()> {
        let (mut hosts, mut jobs) = (String::new(), String::new());
        for number in 0..HOSTS {
            let (name, ip) = (format!("bench{number}.example.com"), format!("10.1.{}.{}", number / 250, number % 250));
            writeln!(hosts, "{ip}\t{name}\tbench{number}")?;
            self.add("Host", &name, json!({"ensure": "present", "ip": ip, "host_aliases": [format!("bench{number}")]}));
        }
        for number in 0..JOBS {
            let (name, command, minute) = (format!("bench{number}"), format!("/bin/true {number}"), (number % 60).to_string());
            writeln!(jobs, "# Puppet Name: {name}\n{minute} 3 * * * {command}")?;
            let parameters = json!({"ensure": "present", "command": command, "user": "root", "minute": [minute], "hour": ["3"]});
            self.add("Cron", &name, parameters);
        }
        self.append("hosts", &hosts)?;
        let crontab = self.path("cron/crontabs/root");
        fs::write(&crontab, jobs)?;
        Ok(fs::set_permissions(crontab, fs::Permissions::from_mode(0o600))?)
    }

    fn packages(&mut self) -> anyhow::Result<()> {
        let mut ask = Command::new("dpkg-query");
        let answer = prepare(ask.args(["-W", "-f", "${Package} ${db:Status-Abbrev}\n"]))?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let mut names: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_suffix(" ii")).collect();
        names.sort_unstable();
        names.dedup();
        for name in names.into_iter().take(PACKAGES) {
            self.add("Package", name, json!({"ensure": "installed"}));
        }
        Ok(())
    }

    /// Writes the catalog, with the types mixed.
    fn write_catalog(&self) -> anyhow::Result<()> {
        let mut all = vec![
            json!({"type": "Stage", "title": "main", "parameters": {"name": "main"}, "tags": ["stage"], "kind": "compilable_type"}),
            json!({"type": "Class", "title": "main", "parameters": {"name": "main"}, "tags": ["class"], "kind": "unknown"}),
        ];
        let mut edges = vec![json!({"source": "Stage[main]", "target": "Class[main]"})];
        // A step that has no divisor in common with their number comes by each once.
        let count = self.resources.len();
        for resource in (0..count).map(|at| &self.resources[at * 1_000_003 % count]) {
            let text = |name: &str| resource[name].as_str().unwrap_or_default().to_owned();
            edges.push(json!({"source": "Class[main]", "target": format!("{}[{}]", text("type"), text("title"))}));
            all.push(resource.clone());
        }
        let catalog = json!({"name": "node1.example.com", "version": 1, "catalog_format": 2, "environment": "production",
            "classes": [], "tags": [], "resources": all, "edges": edges});
        Ok(fs::write(self.path("catalog.json"), catalog.to_string())?)
    }
}

/// The namespace, as long as a process keeps it.
struct Namespace(Child);

impl Namespace {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let mut hold = Command::new("unshare");
        hold.args(["-m", "sh", "-c", HOLD, "sh"]).arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut namespace = Self(hold.spawn().context("could not run unshare")?);
        let mut said = String::new();
        if let Some(stdout) = &mut namespace.0.stdout {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        anyhow::ensure!(said == "ready\n", "the mount namespace could not be made");
        Ok(namespace)
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.0.id())).arg(program).args(arguments);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // With its input it ends.
        self.0.wait().ok();
    }
}

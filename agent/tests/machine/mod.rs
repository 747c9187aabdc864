//! Providers on a machine of their own: as root, in a mount namespace with copies of `/etc`, of crontabs and of home
//! directories. Where Puppet is installed, it gets the same resources on another such machine, and files and events are
//! compared.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support;
use direct_puppet_agent::{Agent, RunOptions};
use direct_puppet_transport::protocol::{Resource, Value};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Where Debian's packages put the modules.
const MODULES: &str = "/usr/share/puppet/modules";

/// Makes the machine of directory `$1`, prepares it by the script there, and runs what follows.
const ENTER: &str = r#"set -e
mount --make-rprivate /
mount --bind "$1/etc" /etc
mount --bind "$1/cron" /var/spool/cron
mount --bind "$1/home" /home
sh -e "$1/prepare"
shift
exec "$@""#;

/// Applies each manifest of the directory `$1` with Puppet, and keeps its events and the files. Its modules are those of Debian's packages,
/// whatever environments this machine has. Its directories are its own: two that begin at once would both make what the machine has not.
const PUPPET: &str = r#"set -e
cd "$1"
for step in $(seq 0 $(($2 - 1))); do
  puppet apply --confdir "$1/conf" --vardir "$1/var" --rundir "$1/run" --codedir "$1/code" --basemodulepath "$3" \
    --color=false --logdest "$1/log.$step" "$1/$step.pp" || true
  [ -n "$(find "$1/var" -name last_run_report.yaml)" ] || { cat "$1/log.$step"; exit 1; }
  ruby -ryaml -rjson -e '
    text = File.read(Dir[ARGV[0] + "/**/last_run_report.yaml"].first).gsub(/!ruby\/\S+/, "")
    report = YAML.respond_to?(:unsafe_load) ? YAML.unsafe_load(text) : YAML.load(text)
    events = report["resource_statuses"].flat_map { |name, status|
      status["events"].reject { |event| event["property"].nil? }.map { |event| [name, event["property"], event["message"]] }
    }
    puts JSON.generate(events)' "$1" > "events.$step"
  mkdir "files.$step"
  while read -r file; do [ ! -e "$file" ] || cp "$file" "files.$step/$(echo "$file" | tr / _)"; done < files
done"#;

/// The name, beside those of files, of what a run said of failures.
pub(crate) const MESSAGES: &str = "messages";

/// What to do on the machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// The managed root.
    pub(crate) root: String,
    /// Catalogs, one after the other.
    pub(crate) steps: Vec<Vec<Resource>>,
    /// Files to keep after each.
    pub(crate) files: Vec<String>,
    /// Whether resources may fail.
    pub(crate) may_fail: bool,
}

/// One comparison.
pub(crate) struct Case {
    /// Modules that Puppet needs; `None` when there is nothing to compare with it.
    pub(crate) modules: Option<&'static [&'static str]>,
    /// A script that makes what was there before.
    pub(crate) prepare: &'static str,
    pub(crate) orders: Orders,
}

type Events = BTreeSet<(String, String, String)>;

fn flat(file: &str) -> String {
    file.replace('/', "_")
}

/// A machine.
pub(crate) struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new(case: &Case) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cron/crontabs", "home", "work"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let copied = Command::new("cp").args(["-a", "/etc"]).arg(dir.path().join("etc")).status().unwrap();
        assert!(copied.success(), "/etc could not be copied");
        fs::write(dir.path().join("prepare"), case.prepare).unwrap();
        let machine = Self { dir };
        fs::write(machine.work("orders.json"), serde_json::to_vec(&case.orders).unwrap()).unwrap();
        fs::write(machine.work("files"), case.orders.files.iter().map(|file| format!("{file}\n")).collect::<String>()).unwrap();
        machine
    }

    fn work(&self, name: &str) -> PathBuf {
        self.dir.path().join("work").join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", ENTER, "sh"]).arg(self.dir.path()).args(arguments);
        let output = command.current_dir(self.dir.path().join("work")).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}\n{err}");
        output
    }

    pub(crate) fn events(&self, step: usize) -> Events {
        let events: Vec<(String, String, String)> =
            serde_json::from_slice(&fs::read(self.work(&format!("events.{step}"))).unwrap()).unwrap();
        events.into_iter().collect()
    }

    /// Returns a file after a step, with what differs by intent taken away: headers with the time, and blanks in lines of others.
    pub(crate) fn file(&self, step: usize, file: &str) -> Vec<String> {
        let text = fs::read(self.work(&format!("files.{step}")).join(flat(file))).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with("# HEADER") && !line.starts_with("# (- installed"));
        lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }
}

/// Returns a value as a manifest has it.
fn literal(value: &Value) -> String {
    match value {
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Array(values) => format!("[{}]", values.iter().map(literal).collect::<Vec<_>>().join(", ")),
        other => format!("'{}'", other.as_str().unwrap().replace('\\', "\\\\").replace('\'', "\\'")),
    }
}

/// Returns a resource as a manifest has it.
fn manifest(resource: &Resource) -> String {
    let parameters = resource.parameters.iter().map(|(name, value)| format!("  {name} => {},\n", literal(value)));
    let (name, title) = (resource.resource_type.to_lowercase(), literal(&resource.title.as_str().into()));
    format!("{name} {{ {title}:\n{}}}\n", parameters.collect::<String>())
}

pub(crate) fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// The test that [`run`] starts.
const ON_THE_MACHINE: &str = "machine::on_the_machine";

/// Runs a case on our machine; returns it, if there can be one.
pub(crate) fn run(name: &str, case: &Case) -> Option<Machine> {
    let may_unshare = || Command::new("unshare").args(["-m", "mount", "--make-rprivate", "/"]).output();
    if !rustix::process::geteuid().is_root() || !may_unshare().is_ok_and(|output| output.status.success()) {
        println!("LEFT OUT: {name} on a real machine, which needs root and mount namespaces");
        return None;
    }
    let ours = Machine::new(case);
    let program = std::env::current_exe().unwrap();
    let output = ours.run(&[program.to_str().unwrap(), "--exact", ON_THE_MACHINE, "--ignored", "--nocapture"]);
    // A name that fits no test is a good end too, and so is a part that found no orders.
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("test result: ok. 1 passed"), "{name}: {ON_THE_MACHINE} did not run: {said}");
    for step in 0..case.orders.steps.len() {
        assert!(ours.work(&format!("events.{step}")).exists(), "{name}: step {step} was not made: {said}");
    }
    Some(ours)
}

/// Runs a case on our machine, and on Puppet's if there can be one; compares.
pub(crate) fn compare(name: &str, case: &Case) {
    let Some(ours) = run(name, case) else { return };
    let has_modules = case.modules.into_iter().flatten().all(|module| Path::new(MODULES).join(module).exists());
    if !has_modules || !is_there("puppet") || !is_there("ruby") {
        println!("LEFT OUT: {name} compared with Puppet, which needs puppet and its modules to be installed");
        return;
    }
    let theirs = Machine::new(case);
    for (step, resources) in case.orders.steps.iter().enumerate() {
        fs::write(theirs.work(&format!("{step}.pp")), resources.iter().map(manifest).collect::<String>()).unwrap();
    }
    let work = theirs.work("");
    let work = work.to_str().unwrap().trim_end_matches('/');
    theirs.run(&["sh", "-c", PUPPET, "sh", work, &case.orders.steps.len().to_string(), MODULES]);
    for step in 0..case.orders.steps.len() {
        let log = fs::read_to_string(theirs.work(&format!("log.{step}"))).unwrap_or_default();
        assert_eq!(ours.events(step), theirs.events(step), "{name}, step {step}: events; Puppet said: {log}");
        for file in &case.orders.files {
            assert_eq!(ours.file(step, file), theirs.file(step, file), "{name}, step {step}: {file}; Puppet said: {log}");
        }
    }
}

/// The part that runs on the machine, started by [`run`], which every other test of these files goes through and which sees that it ran:
/// its orders are in the directory that it runs in.
#[tokio::test]
#[ignore = "it changes the machine that it runs on: the other tests start it on one of its own, and fail unless it ran there"]
async fn on_the_machine() {
    let Ok(orders) = fs::read("orders.json") else {
        println!("LEFT OUT: there are no orders here");
        return;
    };
    let orders: Orders = serde_json::from_slice(&orders).unwrap();
    for (step, resources) in orders.steps.into_iter().enumerate() {
        let state = std::env::current_dir().unwrap().join(format!("state.{step}"));
        let agent = Agent::builder()
            .transport(support::serve("node1", resources, &[]))
            .certname("node1".parse().unwrap())
            .root(&orders.root)
            .state_dir(state)
            .build()
            .unwrap();
        let outcome = agent.run(&RunOptions::default()).await.unwrap();
        assert!(orders.may_fail || outcome.resources.failed == 0, "step {step}: {:?}", outcome.messages);
        let events = outcome.events().filter(|event| !event.property.is_empty());
        let events: Vec<_> = events.map(|event| (&event.resource, &event.property, &event.message)).collect();
        fs::write(format!("events.{step}"), serde_json::to_vec(&events).unwrap()).unwrap();
        if !orders.may_fail {
            let again = agent.run(&RunOptions::default()).await.unwrap();
            let events: Vec<String> = again.events().map(|event| format!("{event:?}")).collect();
            assert_eq!(events, [""; 0], "step {step}: not converged");
        }
        fs::create_dir(format!("files.{step}")).unwrap();
        fs::write(Path::new(&format!("files.{step}")).join(MESSAGES), outcome.messages.join("\n")).unwrap();
        for file in orders.files.iter().filter(|file| Path::new(file.as_str()).exists()) {
            fs::copy(file, Path::new(&format!("files.{step}")).join(flat(file))).unwrap();
        }
    }
}

pub(crate) fn list(values: &[&str]) -> Value {
    Value::Array(values.iter().map(|value| Value::from(*value)).collect())
}

pub(crate) fn resource(resource_type: &str, title: &str) -> Resource {
    Resource::new(resource_type, title)
}

pub(crate) fn orders(steps: Vec<Vec<Resource>>, files: &[&str]) -> Orders {
    Orders { root: "/".to_owned(), steps, files: files.iter().map(|file| (*file).to_owned()).collect(), may_fail: false }
}

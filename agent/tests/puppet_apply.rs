//! The same catalogs applied by Puppet and here: events in their order, what failed and what was skipped, counters, and the files.
//! Puppet runs in a mount namespace in which `/mnt` is a directory of its own; ours is below a root of its own. What differs by intent
//! is told in `tests/interop/DIFFERENCES.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use direct_puppet_agent::{Agent, PuppetCatalog, RunOptions};
use direct_puppet_transport::protocol::report::EventStatus;
use serde::Deserialize;
use serde_json::{Value as Json, json};

#[path = "../examples/support/mod.rs"]
mod support;

/// Applies `catalog.json` of each directory twice with `/mnt` at its `mnt`, and keeps the reports. Puppet is loaded once: each run is a
/// fork. Gathering facts would take nearly all of the time, and nothing here follows from one.
const PUPPET: &str = r##"
require 'yaml'
require 'json'
require 'puppet'
require 'puppet/util/command_line'
require 'puppet/application/apply'
require 'puppet/indirector/facts/facter'
%w[file exec notify schedule stage].each { |type| require "puppet/type/#{type}" }
%w[file/posix exec/posix exec/shell].each { |provider| require "puppet/provider/#{provider}" }
Puppet::Node::Facts::Facter.define_method(:find) { |request| Puppet::Node::Facts.new(request.key, { 'fqdn' => request.key }) }
system('mount', '--make-rprivate', '/') or abort('mount namespace')
ARGV.dup.each do |dir|
  system('mount', '--bind', dir + '/mnt', '/mnt') or abort('bind ' + dir)
  [1, 2].each do |run|
    pid = fork do
      $stdout.reopen(dir + '/out', 'a')
      $stderr.reopen($stdout)
      arguments = ['apply', '--confdir', dir + '/conf', '--vardir', dir + '/var', '--color=false', '--logdest', "#{dir}/log.#{run}",
        '--catalog', dir + '/catalog.json']
      Puppet::Util::CommandLine.new('puppet', arguments).execute
    end
    Process.wait(pid)
    written = Dir[dir + '/var/**/last_run_report.yaml'].first or abort(File.read(dir + '/out') + File.read("#{dir}/log.#{run}"))
    text = File.read(written).gsub(/!ruby\/\S+/, '')
    report = YAML.respond_to?(:unsafe_load) ? YAML.unsafe_load(text) : YAML.load(text)
    statuses = report['resource_statuses'].to_a
    events = statuses.flat_map { |name, status| status['events'].map { |event|
      [event['time'].to_s, name, event['property'].to_s, event['status'], event['message'].to_s] } }
    named = lambda { |flag| statuses.select { |_, status| status[flag] }.map(&:first) }
    counters = report['metrics']['resources']['values'].map { |name, _, value| [name, value] }.to_h
    File.write("#{dir}/report.#{run}", JSON.generate({ events: events.sort_by.with_index { |event, at| [event[0], at] }.map { |event| event[1..] },
      failed: named.call('failed'), skipped: named.call('skipped'), counters: counters, status: report['status'] }))
    File.delete(written)
  end
  system('umount', '/mnt')
end
"##;

/// How many random catalogs there are in the long campaign (`CAMPAIGN=long`): Puppet takes seconds for each.
const SEEDS: u64 = 300;

/// How many namespaces work at once, each with its part of the catalogs.
const AT_ONCE: usize = 2;

/// How many catalogs Puppet applies before they are compared.
const AT_A_TIME: usize = 40;

/// What was there before.
#[derive(Debug, Clone)]
enum Before {
    File(&'static str, u32),
    Directory,
    Link(&'static str),
}

/// One catalog, and what was below `/mnt` before it was applied.
#[derive(Debug, Clone)]
struct Case {
    name: String,
    catalog: Json,
    before: Vec<(String, Before)>,
}

impl Case {
    /// Makes a directory as it was before.
    fn prepare(&self, mnt: &Path) {
        fs::create_dir_all(mnt).unwrap();
        for (name, before) in &self.before {
            let path = mnt.join(name);
            match before {
                Before::File(content, mode) => {
                    fs::write(&path, content).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                }
                Before::Directory => fs::create_dir(&path).unwrap(),
                Before::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
            }
        }
    }
}

/// What is compared.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Ran {
    /// Resource, property, status and message.
    events: Vec<(String, String, String, String)>,
    failed: BTreeSet<String>,
    skipped: BTreeSet<String>,
    counters: BTreeMap<String, u64>,
    status: String,
}

impl Ran {
    /// Takes away what differs by intent: the wording of types that have their own, counters that only one of both has, and the
    /// difference between drift and intent for resources that never failed to converge.
    fn comparable(mut self) -> Self {
        for (resource, property, status, message) in &mut self.events {
            let is_common = resource.starts_with("Notify[") || property.is_empty() && status == "success" || status == "audit";
            if !is_common {
                message.clear();
            }
        }
        let compared = ["changed", "failed", "failed_to_restart", "out_of_sync", "restarted", "skipped", "total"];
        self.counters.retain(|name, _| compared.contains(&name.as_str()));
        self
    }
}

type Files = BTreeMap<String, (Option<Vec<u8>>, u32)>;

fn files(dir: &Path) -> Files {
    let mut found = Files::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777;
        let is_link = path.is_symlink();
        let content = match is_link {
            true => Some(fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()),
            false => path.is_file().then(|| fs::read(&path).unwrap()),
        };
        if path.is_dir() && !is_link {
            let below = files(&path).into_iter();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.extend(below.map(|(below, what)| (format!("{name}/{below}"), what)));
        }
        found.insert(path.file_name().unwrap().to_string_lossy().into_owned(), (content, mode));
    }
    found
}

/// Applies all cases with Puppet; `None` where it cannot be.
fn puppet(cases: &[Case]) -> Option<Vec<(Vec<Ran>, Files)>> {
    let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let may_unshare = || Command::new("unshare").args(["-m", "mount", "--make-rprivate", "/"]).output();
    if !is_there("puppet") || !is_there("ruby") || !may_unshare().is_ok_and(|output| output.status.success()) {
        println!("LEFT OUT: catalogs compared with Puppet, which needs root, mount namespaces, puppet and ruby");
        return None;
    }
    let work = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = (0..cases.len()).map(|at| work.path().join(at.to_string())).collect();
    for (case, dir) in cases.iter().zip(&dirs) {
        case.prepare(&dir.join("mnt"));
        // Puppet wants the name of a deferred function before its arguments.
        let (sorted, named) = (r#""arguments":[["a","b"],"-"],"name":"join""#, r#""name":"join","arguments":[["a","b"],"-"]"#);
        fs::write(dir.join("catalog.json"), case.catalog.to_string().replace(sorted, named)).unwrap();
    }
    std::thread::scope(|scope| {
        for part in dirs.chunks(cases.len().div_ceil(AT_ONCE)) {
            scope.spawn(move || {
                let output = Command::new("unshare").args(["-m", "ruby", "-e", PUPPET]).args(part).output().unwrap();
                let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success(), "{out}\n{err}");
            });
        }
    });
    let ran =
        |dir: &Path, run: u32| serde_json::from_slice::<Ran>(&fs::read(dir.join(format!("report.{run}"))).unwrap()).unwrap();
    Some(dirs.iter().map(|dir| (vec![ran(dir, 1), ran(dir, 2)], files(&dir.join("mnt")))).collect())
}

async fn ours(case: &Case) -> (Vec<Ran>, Files) {
    let dir = tempfile::tempdir().unwrap();
    case.prepare(&dir.path().join("root/mnt"));
    let catalog = Arc::new(PuppetCatalog::read(case.catalog.to_string().as_bytes()).unwrap());
    let mut runs = Vec::new();
    for _ in 0..2 {
        let agent = Agent::builder()
            .transport(support::serve("n1.test", Vec::new(), &[]))
            .certname("n1.test".parse().unwrap())
            .root(dir.path().join("root"))
            .state_dir(dir.path().join("state"))
            .build()
            .unwrap();
        let outcome = agent.run(&RunOptions { catalog: Some(Arc::clone(&catalog)), ..RunOptions::default() }).await.unwrap();
        let named = |flag: fn(&direct_puppet_transport::protocol::report::ResourceStatus) -> bool| {
            outcome.report.resource_statuses.iter().filter(|status| flag(status)).map(|status| status.resource.clone()).collect()
        };
        let status = |status: EventStatus| serde_json::to_value(status).unwrap().as_str().unwrap().to_owned();
        let events = outcome.events().map(|event| {
            (
                event.resource.clone(),
                event.property.clone().into_owned(),
                status(event.status),
                event.message.clone().into_owned(),
            )
        });
        let counters: BTreeMap<String, u64> = serde_json::from_value(serde_json::to_value(outcome.resources).unwrap()).unwrap();
        runs.push(Ran {
            events: events.collect(),
            failed: named(|status| status.failed),
            skipped: named(|status| status.skipped),
            counters,
            status: serde_json::to_value(outcome.status).unwrap().as_str().unwrap().to_owned(),
        });
    }
    (runs, files(&dir.path().join("root/mnt")))
}

/// Compares all cases, and tells all that differ.
async fn compare(cases: &[Case]) {
    let mut different = Vec::new();
    for (part, some) in cases.chunks(AT_A_TIME).enumerate() {
        let Some(all) = puppet(some) else { return };
        compare_with(some, all, &mut different).await;
        if cases.len() > AT_A_TIME {
            println!("{} of {} compared", part * AT_A_TIME + some.len(), cases.len());
        }
    }
    assert!(different.is_empty(), "{} of {} differ: {different:?}", different.len(), cases.len());
}

async fn compare_with<'a>(cases: &'a [Case], all: Vec<(Vec<Ran>, Files)>, different: &mut Vec<&'a str>) {
    for (case, (theirs, their_files)) in cases.iter().zip(all) {
        let (ours, our_files) = ours(case).await;
        let Case { name, catalog, before } = case;
        let mut told = String::new();
        for (run, (ours, theirs)) in ours.into_iter().zip(theirs).enumerate() {
            let (ours, theirs) = (ours.comparable(), theirs.comparable());
            if ours != theirs {
                write!(told, "\n run {run}\n  ours   {ours:?}\n  theirs {theirs:?}").unwrap();
            }
        }
        if our_files != their_files {
            write!(told, "\n files\n  ours   {our_files:?}\n  theirs {their_files:?}").unwrap();
        }
        if !told.is_empty() {
            println!("{name}:{told}\n{catalog}\n{before:?}\n");
            different.push(name.as_str());
        }
    }
}

/// Makes a catalog of resources, each with the containers that hold it, innermost last.
fn catalog(resources: &[(Json, &[&str])]) -> Json {
    let mut edges = BTreeSet::new();
    let mut all = vec![
        json!({"type": "Stage", "title": "main", "parameters": {"name": "main"}, "tags": ["stage"], "kind": "compilable_type"}),
        json!({"type": "Class", "title": "main", "parameters": {"name": "main"}, "tags": ["class"], "kind": "unknown"}),
    ];
    edges.insert(("Stage[main]".to_owned(), "Class[main]".to_owned()));
    for (resource, holders) in resources {
        let text = |name: &str| resource[name].as_str().unwrap();
        let reference = format!("{}[{}]", text("type"), text("title"));
        let holder = match (holders.last(), text("type")) {
            (Some(holder), _) => (*holder).to_owned(),
            (None, "Class") => "Stage[main]".to_owned(),
            (None, _) => "Class[main]".to_owned(),
        };
        edges.insert((holder, reference));
        all.push(resource.clone());
    }
    let edges: Vec<Json> = edges.into_iter().map(|(source, target)| json!({"source": source, "target": target})).collect();
    json!({"name": "n1.test", "version": 1, "catalog_format": 2, "environment": "production", "classes": [], "tags": [],
        "resources": all, "edges": edges})
}

fn resource(resource_type: &str, title: &str, parameters: Json) -> Json {
    let kind = match resource_type {
        "Class" => "class",
        "Group::Of" => "defined_type",
        _ => "compilable_type",
    };
    json!({"type": resource_type, "title": title, "parameters": parameters, "tags": [resource_type.to_lowercase()], "kind": kind,
        "exported": false})
}

#[tokio::test]
async fn metaparameters_and_relationships() {
    let deferred = json!({"__ptype": "Deferred", "name": "join", "arguments": [["a", "b"], "-"]});
    let case = Case {
        name: "metaparameters".to_owned(),
        before: Vec::new(),
        catalog: catalog(&[
            (resource("Class", "A", json!({})), &[]),
            (resource("Class", "B", json!({"require": "Class[A]"})), &[]),
            (resource("Notify", "in b", json!({})), &["Class[B]"]),
            (resource("File", "/mnt/z", json!({"ensure": "directory", "mode": "0755"})), &["Class[A]"]),
            (resource("File", "/mnt/z/a", json!({"content": "hello\n", "mode": "0640", "audit": ["mode"]})), &["Class[A]"]),
            (resource("File", "named", json!({"path": "/mnt/z/s", "content": "hush", "mode": "0600"})), &["Class[A]"]),
            (resource("Exec", "fail", json!({"command": "/bin/false", "alias": "broken"})), &[]),
            (resource("File", "/mnt/z/never", json!({"content": "x", "require": "Exec[broken]"})), &[]),
            (resource("Notify", "after never", json!({"require": "File[/mnt/z/never]"})), &[]),
            (resource("Exec", "one", json!({"command": "/bin/true", "refreshonly": true, "subscribe": "File[/mnt/z/s]"})), &[]),
            (resource("Exec", "two", json!({"command": "/bin/true", "refreshonly": true, "subscribe": "Exec[one]"})), &[]),
            (resource("Exec", "class", json!({"command": "/bin/true", "refreshonly": true, "subscribe": "Class[A]"})), &[]),
            (resource("Notify", "noop", json!({"noop": true})), &[]),
            (resource("Notify", "deferred", json!({"message": deferred, "loglevel": "warning"})), &[]),
            (resource("Schedule", "off", json!({"period": "never"})), &[]),
            (resource("Schedule", "once", json!({"period": "daily"})), &[]),
            (resource("Notify", "never", json!({"schedule": "off"})), &[]),
            (resource("Notify", "once a day", json!({"schedule": "once"})), &[]),
            (resource("Notify", "after the end", json!({"require": "Notify[never]"})), &[]),
        ]),
    };
    compare(&[case]).await;
}

/// A sequence of numbers that is the same for the same seed: Knuth's MMIX generator.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

/// Makes a random catalog without a cycle: relationships go from blocks, which are a resource or a container, to later ones; the manifest has them
/// in another order.
fn random_case(seed: u64, has_files: bool) -> Case {
    let mut numbers = Numbers(seed);
    let mut before: Vec<(String, Before)> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut resources: Vec<(Json, Vec<String>)> = Vec::new();
    for block in 0..14 {
        let members = if numbers.below(3) == 0 { 2 + numbers.below(3) } else { 1 };
        let holder = (members > 1).then(|| format!("Group::Of[{block}]"));
        let earlier_blocks = names.clone();
        let relate = |numbers: &mut Numbers, parameters: &mut Json, names: &[String]| {
            if !names.is_empty() && numbers.below(5) < 3 {
                let parameter = if numbers.below(2) == 0 { "require" } else { "subscribe" };
                let first = names[numbers.below(names.len())].clone();
                let second = names[numbers.below(names.len())].clone();
                parameters[parameter] = if first == second { json!(first) } else { json!([first, second]) };
            }
        };
        let mut is_noop = false;
        if let Some(holder) = &holder {
            let mut parameters = json!({});
            relate(&mut numbers, &mut parameters, &earlier_blocks);
            is_noop = has_files && numbers.below(6) == 0;
            if is_noop {
                parameters["noop"] = json!(true);
            }
            resources.push((resource("Group::Of", &block.to_string(), parameters), Vec::new()));
            names.push(holder.clone());
        }
        let mut own = Vec::new();
        for member in 0..members {
            let title = format!("{block}.{member}");
            let (kind, title, mut parameters) = match numbers.below(if has_files { 7 } else { 4 }) {
                0 => ("Notify", title, json!({})),
                1 => ("File", format!("/mnt/{title}"), json!({"content": title, "mode": "0644"})),
                4 | 5 => {
                    before.extend(random_before(&mut numbers).map(|there| (title.clone(), there)));
                    ("File", format!("/mnt/{title}"), random_file(&mut numbers, &title))
                }
                2 => ("Exec", title, json!({"command": "/bin/true", "refreshonly": true})),
                6 => ("Exec", title, random_command(&mut numbers)),
                _ if numbers.below(4) == 0 => ("Exec", title, json!({"command": "/bin/false"})),
                _ => ("Exec", title, json!({"command": "/bin/true"})),
            };
            let earlier: Vec<String> = earlier_blocks.iter().chain(&own).cloned().collect();
            relate(&mut numbers, &mut parameters, &earlier);
            // The compiler hands down what a container says.
            if numbers.below(8) == 0 || is_noop {
                parameters["noop"] = json!(true);
            }
            unrefreshed(&mut parameters, holder.is_some());
            if has_files && numbers.below(8) == 0 {
                parameters["loglevel"] = json!("warning");
            }
            own.push(format!("{kind}[{title}]"));
            resources.push((resource(kind, &title, parameters), holder.iter().cloned().collect()));
        }
        names.extend(own);
    }
    numbers.shuffle(&mut resources);
    let holders: Vec<Vec<&str>> = resources.iter().map(|(_, holders)| holders.iter().map(String::as_str).collect()).collect();
    let resources: Vec<(Json, &[&str])> =
        resources.iter().zip(&holders).map(|((resource, _), holders)| (resource.clone(), holders.as_slice())).collect();
    Case { name: format!("seed {seed}"), catalog: catalog(&resources), before }
}

/// Keeps refreshes from commands with conditions: Puppet reports one that ran nothing, ours does not.
fn unrefreshed(parameters: &mut Json, is_held: bool) {
    let Some(parameters) = parameters.as_object_mut() else { return };
    let has_condition = ["creates", "onlyif"].iter().any(|name| parameters.contains_key(*name));
    if has_condition && is_held {
        parameters.retain(|name, _| !["creates", "onlyif"].contains(&name.as_str()));
    } else if has_condition && let Some(before) = parameters.remove("subscribe") {
        parameters.insert("require".to_owned(), before);
    }
}

/// Commands, with all that decides whether they run. They touch no file: ours run on this machine, whatever root is managed.
fn random_command(numbers: &mut Numbers) -> Json {
    match numbers.below(8) {
        0 => json!({"command": "/bin/true", "creates": "/mnt/1.0"}),
        1 => json!({"command": "/bin/true", "onlyif": ["/bin/true", "/bin/false"]}),
        2 => json!({"command": "/bin/true", "unless": ["/bin/false", "/bin/false"]}),
        3 => json!({"command": "/bin/false", "tries": 2, "try_sleep": 0}),
        4 => json!({"command": "exit 3", "provider": "shell", "returns": [0, 3]}),
        5 => json!({"command": "/bin/true", "refreshonly": true, "refresh": "/bin/true"}),
        6 => json!({"command": "test \"$A\" = 'b c'", "environment": ["A=b c"], "provider": "shell", "umask": "027", "cwd": "/"}),
        _ => json!({"command": ["test", "a b"], "path": ["/bin", "/usr/bin"], "creates": ["/mnt/none", "/mnt/0.0"]}),
    }
}

/// What may be where a file is managed.
fn random_before(numbers: &mut Numbers) -> Option<Before> {
    match numbers.below(7) {
        0 => Some(Before::File("other", 0o600)),
        1 => Some(Before::File("", 0o4755)),
        2 => Some(Before::Directory),
        3 => Some(Before::Link("/nonexistent")),
        4 => Some(Before::File("same", 0o644)),
        _ => None,
    }
}

/// What may be wanted of a file.
fn random_file(numbers: &mut Numbers, title: &str) -> Json {
    let mut parameters = match numbers.below(7) {
        0 => json!({"ensure": "absent"}),
        1 => json!({"ensure": "directory", "mode": "0750"}),
        2 => json!({"ensure": "link", "target": format!("to-{title}")}),
        3 => json!({"ensure": "present", "mode": "u=rw,go="}),
        4 => json!({"ensure": "file", "content": "same", "replace": false, "mode": "0640"}),
        5 => json!({"ensure": "file", "content": "same", "owner": 0, "group": 0}),
        _ => json!({"mode": "0604"}),
    };
    parameters["backup"] = json!(false);
    // Without it a directory in the way is an event there, and a failure without one here.
    parameters["force"] = json!(true);
    parameters
}

/// The long campaign: `CAMPAIGN=long cargo test -p direct-puppet-agent --test puppet_apply -- --nocapture`, some three seconds for each catalog;
/// `CATALOGS=1000` makes it longer. In `/dev/shm` Puppet keeps no state between runs.
#[tokio::test]
async fn random_catalogs() {
    #[expect(clippy::disallowed_methods, reason = "the size of a campaign comes from the environment")]
    let is_long = std::env::var("CAMPAIGN").is_ok_and(|size| size == "long");
    #[expect(clippy::disallowed_methods, reason = "the size of a campaign comes from the environment")]
    let seeds = std::env::var("CATALOGS").ok().map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let cases: Vec<Case> = match is_long {
        // Files of all kinds too, and what was there before.
        true => (1..=seeds).map(|seed| random_case(seed, true)).collect(),
        false => [1, 2, 3, 4, 17].map(|seed| random_case(seed, false)).to_vec(),
    };
    compare(&cases).await;
}

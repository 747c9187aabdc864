//! The same catalogs applied by `puppet apply --catalog`, and what both have made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use direct_puppet_agent::Outcome;
use direct_puppet_transport::protocol::report::{EventStatus, ResourceStatus};
use serde::Deserialize;
use serde_json::{Value as Json, json};

/// Applies the catalogs that are named, one after the other, and prints what the reports say. Gathering facts would take nearly all of the time.
const PUPPET: &str = r##"
require 'yaml'
require 'json'
require 'puppet'
require 'puppet/util/command_line'
require 'puppet/application/apply'
require 'puppet/indirector/facts/facter'
libraries, dir, options, *catalogs = ARGV
$LOAD_PATH.unshift(*libraries.split(':'))
Puppet::Node::Facts::Facter.define_method(:find) { |request| Puppet::Node::Facts.new(request.key, { 'fqdn' => request.key }) }
as_text = lambda do |value|
  case value
  when Array then JSON.generate(value.map { |held| held.is_a?(Symbol) ? held.to_s : held })
  else value.to_s
  end
end
ran = catalogs.map do |catalog|
  pid = fork do
    $stdout.reopen(dir + '/out', 'a')
    $stderr.reopen($stdout)
    arguments = ['apply', '--confdir', dir + '/conf', '--vardir', dir + '/var', '--rundir', dir + '/run', '--color=false',
      *options.split, '--catalog', catalog]
    Puppet::Util::CommandLine.new('puppet', arguments).execute
  end
  Process.wait(pid)
  written = Dir[dir + '/var/**/last_run_report.yaml'].first or abort(File.read(dir + '/out'))
  text = File.read(written).gsub(/!ruby\/\S+/, '')
  report = YAML.respond_to?(:unsafe_load) ? YAML.unsafe_load(text) : YAML.load(text)
  File.delete(written)
  statuses = report['resource_statuses'].to_a
  events = statuses.flat_map { |name, status| status['events'].map { |event|
    [event['time'].to_s, name, event['property'].to_s, event['status'], as_text.call(event['previous_value']),
     as_text.call(event['desired_value']), event['message'], event['corrective_change'] == true] } }
  named = lambda { |flag| statuses.select { |_, status| status[flag] }.map(&:first) }
  { events: events.sort_by.with_index { |event, at| [event[0], at] }.map { |event| event[1..] },
    failed: named.call('failed'), skipped: named.call('skipped') }
end
puts JSON.generate(ran)
"##;

/// One event: resource, property, status, previous and desired value, message, and whether it is corrective.
pub(crate) type Told = (String, String, String, String, String, String, bool);

/// What one run did.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Ran {
    pub(crate) events: Vec<Told>,
    pub(crate) failed: BTreeSet<String>,
    pub(crate) skipped: BTreeSet<String>,
}

impl Ran {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        let named = |flag: fn(&ResourceStatus) -> bool| {
            let statuses = outcome.report.resource_statuses.iter().filter(|status| flag(status));
            statuses.map(|status| status.resource.clone()).collect()
        };
        let status = |status: EventStatus| serde_json::to_value(status).unwrap().as_str().unwrap().to_owned();
        let told = |event: &direct_puppet_transport::protocol::report::Event| {
            (
                event.resource.clone(),
                event.property.to_string(),
                status(event.status),
                event.previous_value.to_string(),
                event.desired_value.to_string(),
                event.message.to_string(),
                event.corrective_change,
            )
        };
        Self {
            events: outcome.events().map(told).collect(),
            failed: named(|status| status.failed),
            skipped: named(|status| status.skipped),
        }
    }
}

/// Returns whether there is Ruby with Puppet's library, and says so when there is not.
pub(crate) fn is_possible(what: &str) -> bool {
    let found = Command::new("ruby").args(["-e", "require 'puppet'"]).output();
    let is_there = found.is_ok_and(|output| output.status.success());
    if !is_there {
        println!("LEFT OUT: {what}, which needs Ruby with Puppet's library: install puppet-agent and run the test again");
    }
    is_there
}

/// Returns whether a module of Debian's is there, and says so when it is not.
pub(crate) fn has_module(name: &str) -> bool {
    let is_there = Path::new("/usr/share/puppet/modules").join(name).join("lib").is_dir();
    if !is_there {
        println!("LEFT OUT: types of the module {name}: install puppet-module-puppetlabs-{name} and run the test again");
    }
    is_there
}

/// Applies catalogs with Puppet.
pub(crate) fn apply(libraries: &[PathBuf], work: &Path, options: &str, catalogs: &[PathBuf]) -> Vec<Ran> {
    fs::create_dir_all(work).unwrap();
    let libraries = libraries.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(":");
    let output = Command::new("ruby").args(["-e", PUPPET]).arg(libraries).arg(work).arg(options).args(catalogs).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", fs::read_to_string(work.join("out")).unwrap_or_default());
    let told = fs::read_to_string(work.join("out")).unwrap_or_default();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}\n{told}"))
}

/// Returns what is below a directory: contents and modes of files, but for headers of Puppet's.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, (String, u32)> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, what)| (format!("{name}/{below}"), what)));
        } else {
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            // They have the time of the run.
            let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("# HEADER"));
            found.insert(name, (lines.collect(), mode));
        }
    }
    found
}

/// Makes a catalog, all of whose resources are in the main class.
pub(crate) fn catalog(resources: &[Json]) -> Json {
    let mut all = vec![
        json!({"type": "Stage", "title": "main", "parameters": {"name": "main"}, "tags": ["stage"], "kind": "compilable_type"}),
        json!({"type": "Class", "title": "main", "parameters": {"name": "main"}, "tags": ["class"], "kind": "class"}),
    ];
    let mut edges = vec![json!({"source": "Stage[main]", "target": "Class[main]"})];
    for resource in resources {
        let text = |name: &str| resource[name].as_str().unwrap();
        edges.push(json!({"source": "Class[main]", "target": format!("{}[{}]", text("type"), text("title"))}));
        all.push(resource.clone());
    }
    json!({"name": "n1.test", "version": 1, "catalog_format": 2, "environment": "production", "classes": [], "tags": [],
        "resources": all, "edges": edges})
}

/// Makes a resource.
pub(crate) fn resource(resource_type: &str, title: &str, parameters: Json) -> Json {
    json!({"type": resource_type, "title": title, "parameters": parameters, "tags": [resource_type.to_lowercase()],
        "kind": "compilable_type", "exported": false, "file": "/site.pp", "line": 7})
}

/// Makes parameters of a resource secrets.
pub(crate) fn secret(mut resource: Json, parameters: &[&str]) -> Json {
    resource["sensitive_parameters"] = json!(parameters);
    resource
}

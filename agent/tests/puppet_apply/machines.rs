//! Machines of their own for both: mount namespaces in which `/mnt`, `/etc`, `/home` and the crontabs are those of a directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use direct_puppet_agent::{Agent, Outcome, PuppetCatalog, RunOptions};
use direct_puppet_transport::protocol::report::{EventStatus, ResourceStatus};
use serde_json::Value as Json;

use super::{Before, Case, Ran, support};

/// What is bound, and where.
const BOUND: [(&str, &str); 4] = [("mnt", "/mnt"), ("etc", "/etc"), ("home", "/home"), ("cron", "/var/spool/cron")];

/// What of `/etc` each machine has: what the account tools and cron read.
const ETC: &str = r#"cd /etc && exec cp -a --parents $(ls -d passwd group shadow gshadow login.defs default/useradd skel pam.d security \
    nsswitch.conf os-release debian_version hosts localtime ld.so.cache subuid subgid crontab cron.allow cron.deny 2> /dev/null) "$1""#;

/// Applies `catalog.json` of each directory twice on its machine, and keeps the reports. Puppet is loaded once: each run is a fork. Gathering
/// facts would take nearly all of the time, and nothing here follows from one.
const PUPPET: &str = r##"
require 'yaml'
require 'json'
require 'puppet'
require 'puppet/util/command_line'
require 'puppet/application/apply'
require 'puppet/indirector/facts/facter'
%w[cron host sshkeys].each { |name| $LOAD_PATH.unshift("/usr/share/puppet/modules/#{name}_core/lib") }
%w[file exec notify schedule stage user group cron host ssh_authorized_key].each { |type| require "puppet/type/#{type}" }
%w[file/posix exec/posix exec/shell user/useradd group/groupadd cron/crontab host/parsed ssh_authorized_key/parsed].each do |provider|
  require "puppet/provider/#{provider}"
end
Puppet::Node::Facts::Facter.define_method(:find) { |request| Puppet::Node::Facts.new(request.key, { 'fqdn' => request.key }) }
%w[os kernel operatingsystem].each { |name| Puppet.runtime[:facter].value(name) }
system('mount', '--make-rprivate', '/') or abort('mount namespace')
ARGV.dup.each do |dir|
  bound = { 'mnt' => '/mnt', 'etc' => '/etc', 'home' => '/home', 'cron' => '/var/spool/cron' }
  bound.each { |from, to| system('mount', '--bind', "#{dir}/#{from}", to) or abort("bind #{dir}/#{from}") }
  options = JSON.parse(File.read(dir + '/options.json'))
  [1, 2].each do |run|
    pid = fork do
      $stdout.reopen(dir + '/out', 'a')
      $stderr.reopen($stdout)
      arguments = ['apply', '--confdir', dir + '/conf', '--vardir', dir + '/var', '--rundir', dir + '/run', '--color=false',
        '--logdest', "#{dir}/log.#{run}", '--catalog', dir + '/catalog.json']
      options.each { |name, tags| arguments += ["--#{name}", tags.join(',')] unless tags.empty? }
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
  bound.each { |_, to| system('umount', '--lazy', to) }
end
"##;

/// The test that applies on our machines.
const ON_THE_MACHINES: &str = "machines::on_the_machines";

/// How many namespaces work at once, each with its part of the catalogs.
const AT_ONCE: usize = 2;

/// What is below a directory: contents or targets of links, owner, group and mode.
pub(crate) type Files = BTreeMap<String, (Option<Vec<u8>>, u32, u32, u32)>;

/// Two runs and what they left.
pub(crate) type Done = (Vec<Ran>, Files);

/// Returns whether there can be such machines, and Puppet on them.
pub(crate) fn are_possible() -> bool {
    let is_there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let may_unshare = || Command::new("unshare").args(["-m", "mount", "--make-rprivate", "/"]).output();
    let has_modules =
        ["cron", "host", "sshkeys"].iter().all(|name| Path::new(&format!("/usr/share/puppet/modules/{name}_core")).exists());
    has_modules && is_there("puppet") && is_there("ruby") && may_unshare().is_ok_and(|output| output.status.success())
}

/// Makes the machine of a case in a directory.
fn prepare(case: &Case, dir: &Path) {
    for below in ["mnt", "etc", "home", "cron/crontabs"] {
        fs::create_dir_all(dir.join(below)).unwrap();
    }
    let copied = Command::new("sh").args(["-c", ETC, "sh"]).arg(dir.join("etc")).status().unwrap();
    assert!(copied.success(), "/etc could not be copied");
    for (name, before) in &case.before {
        let path = dir.join("mnt").join(name);
        match before {
            Before::File(content, mode) => {
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Before::Directory => fs::create_dir(&path).unwrap(),
            Before::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
        }
    }
    for (name, lines) in &case.lines {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let is_new = !path.exists();
        let mut text = fs::read_to_string(&path).unwrap_or_default();
        text.push_str(lines);
        fs::write(&path, text).unwrap();
        if is_new {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    let passwd = fs::read_to_string(dir.join("etc/passwd")).unwrap();
    for home in fs::read_dir(dir.join("home")).unwrap().map(|entry| entry.unwrap().path()) {
        let name = format!("{}:", home.file_name().unwrap().to_string_lossy());
        let fields: Vec<&str> = passwd.lines().find(|line| line.starts_with(&name)).unwrap().split(':').collect();
        let given = Command::new("chown").arg("-R").arg(format!("{}:{}", fields[2], fields[3])).arg(&home).status().unwrap();
        assert!(given.success(), "{} could not be given away", home.display());
    }
    // Puppet wants the name of a deferred function before its arguments.
    let (sorted, named) = (r#""arguments":[["a","b"],"-"],"name":"join""#, r#""name":"join","arguments":[["a","b"],"-"]"#);
    fs::write(dir.join("catalog.json"), case.catalog.to_string().replace(sorted, named)).unwrap();
    let options = serde_json::json!({"tags": case.tags, "skip_tags": case.skip_tags});
    fs::write(dir.join("options.json"), options.to_string()).unwrap();
}

fn files(dir: &Path) -> Files {
    let mut found = Files::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let stat = fs::symlink_metadata(&path).unwrap();
        let is_link = path.is_symlink();
        let content = match is_link {
            true => Some(fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()),
            false => path.is_file().then(|| fs::read(&path).unwrap()),
        };
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !is_link {
            let below = files(&path).into_iter();
            found.extend(below.map(|(below, what)| (format!("{name}/{below}"), what)));
        }
        found.insert(name, (content, stat.mode() & 0o7777, stat.uid(), stat.gid()));
    }
    found
}

/// Reads what was left, without what differs by intent or by the moment: comments with the time, blanks and empty lines in files of lines, the tools'
/// backups and locks, and Puppet's own directory.
fn left(dir: &Path) -> Files {
    let mut all = Files::new();
    for (below, _) in BOUND {
        let is_others =
            |name: &str| name.ends_with('-') || name.ends_with(".lock") || below == "etc" && name.starts_with("puppet");
        let found = files(&dir.join(below)).into_iter().filter(|(name, _)| !is_others(name));
        all.extend(found.map(|(name, what)| (format!("{below}/{name}"), what)));
    }
    for (name, (content, ..)) in &mut all {
        let has_lines = name.starts_with("cron/") || name == "etc/hosts" || name.ends_with("/authorized_keys");
        let Some(bytes) = content.as_mut().filter(|_| has_lines) else { continue };
        let text = String::from_utf8_lossy(bytes).into_owned();
        let is_dated = |line: &str| line.starts_with("# HEADER") || line.starts_with("# (- installed");
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !is_dated(line));
        *bytes = lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect::<String>().into_bytes();
    }
    all
}

fn read(dir: &Path, run: u32) -> Ran {
    let report = dir.join(format!("report.{run}"));
    serde_json::from_slice(&fs::read(&report).unwrap_or_else(|error| panic!("{}: {error}", report.display()))).unwrap()
}

/// Runs a command for each part of the directories; `said` must be in what it prints.
fn on_each(dirs: &[PathBuf], said: &str, command: impl Fn(&[PathBuf]) -> Command + Sync) {
    std::thread::scope(|scope| {
        for part in dirs.chunks(dirs.len().div_ceil(AT_ONCE)) {
            let command = &command;
            scope.spawn(move || {
                let output = command(part).output().unwrap();
                let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success() && out.contains(said), "{out}\n{err}");
            });
        }
    });
}

/// Applies all cases on machines of ours and of Puppet's; returns what was done by ours and by Puppet.
pub(crate) fn apply(cases: &[Case]) -> Vec<(Done, Done)> {
    let work = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|who| {
        let dirs: Vec<PathBuf> = (0..cases.len()).map(|at| work.path().join(at.to_string()).join(who)).collect();
        cases.iter().zip(&dirs).for_each(|(case, dir)| prepare(case, dir));
        dirs
    });
    on_each(&theirs, "", |part| {
        let mut command = Command::new("unshare");
        command.args(["-m", "ruby", "-e", PUPPET]).args(part);
        command
    });
    // A test that is not found is none that failed.
    on_each(&ours, "test result: ok. 1 passed", |part| {
        fs::write(part[0].join("machines.json"), serde_json::to_vec(part).unwrap()).unwrap();
        let mut command = Command::new("unshare");
        command.arg("-m").arg(std::env::current_exe().unwrap());
        command.args(["--exact", ON_THE_MACHINES, "--ignored", "--nocapture"]).current_dir(&part[0]);
        command
    });
    let done = |dir: &PathBuf| (vec![read(dir, 1), read(dir, 2)], left(dir));
    ours.iter().zip(&theirs).map(|(ours, theirs)| (done(ours), done(theirs))).collect()
}

fn ran(outcome: &Outcome) -> Json {
    let named = |flag: fn(&ResourceStatus) -> bool| {
        outcome
            .report
            .resource_statuses
            .iter()
            .filter(|status| flag(status))
            .map(|status| status.resource.clone())
            .collect::<Vec<_>>()
    };
    let status = |status: EventStatus| serde_json::to_value(status).unwrap();
    let events =
        outcome.events().map(|event| serde_json::json!([event.resource, event.property, status(event.status), event.message]));
    serde_json::json!({
        "events": events.collect::<Vec<_>>(),
        "failed": named(|status| status.failed),
        "skipped": named(|status| status.skipped),
        "counters": serde_json::to_value(outcome.resources).unwrap(),
        "status": serde_json::to_value(outcome.status).unwrap(),
    })
}

/// The part that runs on our machines, started by [`apply`], whose results are missed when it did not run: its orders are in the directory that
/// it runs in.
#[tokio::test]
#[ignore = "it changes the machine that it runs on: the other tests start it on machines of its own"]
async fn on_the_machines() {
    let Ok(orders) = fs::read("machines.json") else {
        println!("LEFT OUT: there are no orders here");
        return;
    };
    let run = |program: &str, arguments: &[&Path]| {
        assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
    };
    run("mount", &[Path::new("--make-rprivate"), Path::new("/")]);
    for dir in serde_json::from_slice::<Vec<PathBuf>>(&orders).unwrap() {
        BOUND.iter().for_each(|(from, to)| run("mount", &[Path::new("--bind"), &dir.join(from), Path::new(to)]));
        let catalog = Arc::new(PuppetCatalog::read(&fs::read(dir.join("catalog.json")).unwrap()).unwrap());
        let options: BTreeMap<String, Vec<String>> =
            serde_json::from_slice(&fs::read(dir.join("options.json")).unwrap()).unwrap();
        for number in [1, 2] {
            let agent = Agent::builder()
                .transport(support::serve("n1.test", Vec::new(), &[]))
                .certname("n1.test".parse().unwrap())
                .root("/")
                .state_dir(dir.join("state"))
                .http_source(direct_puppet_transport::HttpSourceClient::new())
                .build()
                .unwrap();
            let options = RunOptions {
                catalog: Some(Arc::clone(&catalog)),
                tags: options["tags"].clone(),
                skip_tags: options["skip_tags"].clone(),
                ..RunOptions::default()
            };
            let outcome = agent.run(&options).await.unwrap();
            fs::write(dir.join(format!("messages.{number}")), outcome.messages.join("\n")).unwrap();
            fs::write(dir.join(format!("report.{number}")), ran(&outcome).to_string()).unwrap();
        }
        BOUND.iter().for_each(|(_, to)| run("umount", &[Path::new("--lazy"), Path::new(to)]));
    }
}

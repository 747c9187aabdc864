//! Providers on a machine of their own: as root, in a mount namespace with copies of `/etc`, of crontabs and of home
//! directories. Where Puppet is installed, it gets the same resources on another such machine, and files and events are
//! compared. What differs by intent is told in `tests/interop/DIFFERENCES.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

#[path = "../examples/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

/// Applies each manifest of the directory `$1` with Puppet, and keeps its events and the files.
const PUPPET: &str = r#"set -e
cd "$1"
for step in $(seq 0 $(($2 - 1))); do
  puppet apply --confdir "$1/conf" --vardir "$1/var" --color=false --logdest "$1/log.$step" "$step.pp" || true
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

/// What to do on the machine.
#[derive(Debug, Serialize, Deserialize)]
struct Orders {
    /// The managed root.
    root: String,
    /// Catalogs, one after the other.
    steps: Vec<Vec<Resource>>,
    /// Files to keep after each.
    files: Vec<String>,
}

/// One comparison.
struct Case {
    /// Modules that Puppet needs; `None` when there is nothing to compare with it.
    modules: Option<&'static [&'static str]>,
    /// A script that makes what was there before.
    prepare: &'static str,
    orders: Orders,
}

type Events = BTreeSet<(String, String, String)>;

fn flat(file: &str) -> String {
    file.replace('/', "_")
}

/// A machine.
struct Machine {
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

    fn events(&self, step: usize) -> Events {
        let events: Vec<(String, String, String)> =
            serde_json::from_slice(&fs::read(self.work(&format!("events.{step}"))).unwrap()).unwrap();
        events.into_iter().collect()
    }

    /// Returns a file after a step, with what differs by intent taken away: headers with the time, and blanks in lines of others.
    fn file(&self, step: usize, file: &str) -> Vec<String> {
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

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Runs a case on our machine; returns it, if there can be one.
fn run(name: &str, case: &Case) -> Option<Machine> {
    let may_unshare = || Command::new("unshare").args(["-m", "mount", "--make-rprivate", "/"]).output();
    if !rustix::process::geteuid().is_root() || !may_unshare().is_ok_and(|output| output.status.success()) {
        println!("LEFT OUT: {name} on a real machine, which needs root and mount namespaces");
        return None;
    }
    let ours = Machine::new(case);
    let program = std::env::current_exe().unwrap();
    ours.run(&[program.to_str().unwrap(), "--exact", "on_the_machine", "--ignored", "--nocapture"]);
    Some(ours)
}

/// Runs a case on our machine, and on Puppet's if there can be one; compares.
fn compare(name: &str, case: &Case) {
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
    theirs.run(&["sh", "-c", PUPPET, "sh", work, &case.orders.steps.len().to_string()]);
    for step in 0..case.orders.steps.len() {
        let log = fs::read_to_string(theirs.work(&format!("log.{step}"))).unwrap_or_default();
        assert_eq!(ours.events(step), theirs.events(step), "{name}, step {step}: events; Puppet said: {log}");
        for file in &case.orders.files {
            assert_eq!(ours.file(step, file), theirs.file(step, file), "{name}, step {step}: {file}; Puppet said: {log}");
        }
    }
}

/// The part that runs on the machine, started by [`compare`]: its orders are in the directory that it runs in.
#[tokio::test]
#[ignore = "it changes the machine that it runs on: the other tests start it on one of its own"]
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
        assert_eq!(outcome.resources.failed, 0, "step {step}: {:?}", outcome.messages);
        let events: Vec<_> = outcome.events().map(|event| (&event.resource, &event.property, &event.message)).collect();
        fs::write(format!("events.{step}"), serde_json::to_vec(&events).unwrap()).unwrap();
        let again = agent.run(&RunOptions::default()).await.unwrap();
        let events: Vec<String> = again.events().map(|event| format!("{event:?}")).collect();
        assert_eq!(events, [""; 0], "step {step}: not converged");
        fs::create_dir(format!("files.{step}")).unwrap();
        for file in orders.files.iter().filter(|file| Path::new(file.as_str()).exists()) {
            fs::copy(file, Path::new(&format!("files.{step}")).join(flat(file))).unwrap();
        }
    }
}

fn list(values: &[&str]) -> Value {
    Value::Array(values.iter().map(|value| Value::from(*value)).collect())
}

fn resource(resource_type: &str, title: &str) -> Resource {
    Resource::new(resource_type, title)
}

fn orders(steps: Vec<Vec<Resource>>, files: &[&str]) -> Orders {
    Orders { root: "/".to_owned(), steps, files: files.iter().map(|file| (*file).to_owned()).collect() }
}

#[test]
fn hosts() {
    let host = |name| resource("Host", name);
    let steps = vec![
        vec![
            host("a.example.com").with("ip", "10.0.0.1").with("host_aliases", list(&["x", "y"])).with("comment", "hi"),
            host("b.example.com").with("ip", "fe80::1"),
            host("c.example.com").with("ip", "10.0.0.4").with("target", "/etc/dpt-hosts"),
        ],
        vec![
            host("a.example.com").with("ip", "10.0.0.3").with("host_aliases", "y").with("comment", "ho"),
            host("b.example.com").with("ensure", "absent"),
            host("z.example.com").with("ip", "10.0.0.9").with("host_aliases", list(&[])),
            host("own").with("host_aliases", "l").with("comment", "new"),
        ],
    ];
    let prepare = r#"printf '127.0.0.1 own\n# c\n10.0.0.9   z.example.com  q  w # note\nodd line\n::1\tip6 ip6b\n' > /etc/hosts"#;
    compare("host", &Case { modules: Some(&["host_core"]), prepare, orders: orders(steps, &["/etc/hosts", "/etc/dpt-hosts"]) });
}

#[test]
fn lines_of_files() {
    let line = |title, line: &str| resource("File_line", title).with("path", "/etc/dpt-lines").with("line", line);
    let steps = vec![
        vec![
            line("append", "new=1"),
            line("replace", "b=3").with("match", "^b="),
            line("several", "x=9").with("match", "^x=").with("multiple", true),
            line("after", "after").with("after", "^a="),
            line("never", "q").with("match", "^nothing").with("append_on_no_match", false),
            line("keep", "k=2").with("match", "^k=").with("replace", false),
            line("look", "y=2").with("match", "^(?!#)y\\s*=\\s*\\d+$"),
        ],
        vec![
            line("gone", "a=1").with("ensure", "absent"),
            resource("File_line", "by match")
                .with("path", "/etc/dpt-lines")
                .with("ensure", "absent")
                .with("match", "^x=")
                .with("match_for_absence", true)
                .with("multiple", true),
        ],
    ];
    let prepare = r#"printf 'a=1\nb=2\nx=3\nk=1\n#y=1\ny = 1\nx=4' > /etc/dpt-lines"#;
    compare("file_line", &Case { modules: Some(&["stdlib"]), prepare, orders: orders(steps, &["/etc/dpt-lines"]) });
}

#[test]
fn settings_of_files() {
    let setting = |section: &str, name: &str, value: &str| {
        let title = format!("{section} {name} {value}");
        let setting = resource("Ini_setting", &title).with("path", "/etc/dpt.ini").with("section", section);
        setting.with("setting", name).with("value", value)
    };
    let steps = vec![
        vec![
            setting("s", "b", "9"),
            setting("s", "c", "c v"),
            setting("t", "e", "1"),
            setting("new", "f", "true").with("key_val_separator", "="),
            setting("", "g", "x"),
            setting("none", "d", "1").with("force_new_section_creation", false),
        ],
        vec![
            setting("s", "b", "10"),
            setting("t", "d", "4").with("ensure", "absent"),
            setting("t", "z", "").with("indent_width", 1),
        ],
    ];
    let prepare = r#"printf 'a=1\n[s]\nb = 2\n;c = 3\n\n[t]\n  d=4\n' > /etc/dpt.ini"#;
    compare("ini_setting", &Case { modules: Some(&["inifile"]), prepare, orders: orders(steps, &["/etc/dpt.ini"]) });
}

#[test]
fn crontabs() {
    if Command::new("crontab").arg("-V").output().is_err() {
        println!("LEFT OUT: cron on a real machine, which needs crontab to be installed");
        return;
    }
    let cron = |name| resource("Cron", name).with("user", "games");
    let steps = vec![
        vec![
            cron("one")
                .with("command", "/bin/true  x ")
                .with("minute", list(&["1", "2"]))
                .with("hour", "*/2")
                .with("environment", list(&["A=b", "C=d e"])),
            cron("two").with("command", "/bin/two").with("special", "daily"),
            cron("three")
                .with("command", "/bin/three")
                .with("weekday", list(&["Mon", "friday"]))
                .with("month", "jan")
                .with("monthday", "1-5"),
            cron("match").with("command", "/bin/foreign").with("hour", 3).with("minute", 0),
        ],
        vec![
            cron("one")
                .with("command", "/bin/true y")
                .with("minute", "absent")
                .with("hour", list(&["3", "4"]))
                .with("environment", list(&["A=b"])),
            cron("two").with("command", "/bin/two").with("special", "absent").with("minute", 3),
            cron("three").with("ensure", "absent"),
            cron("match").with("command", "/bin/foreign").with("hour", 3).with("minute", 0).with("monthday", 2),
        ],
    ];
    let prepare = r#"chgrp crontab /var/spool/cron/crontabs; chmod 1730 /var/spool/cron/crontabs
printf '# my own\n\nMAILTO=me\n0 3 * * * /bin/foreign\n5  4\t* * *   /bin/odd  spaced \n' | crontab -u games -"#;
    compare("cron", &Case { modules: Some(&["cron_core"]), prepare, orders: orders(steps, &["/var/spool/cron/crontabs/games"]) });
}

#[test]
fn users_and_groups() {
    if !is_there("useradd") && Command::new("useradd").arg("--help").output().is_err() {
        println!("LEFT OUT: user and group on a real machine, which needs useradd to be installed");
        return;
    }
    let user = |name| resource("User", name);
    let steps = vec![
        vec![
            resource("Group", "dpt-g").with("gid", 4321),
            resource("Group", "dpt-s").with("system", true).with("gid", 321),
            user("dpt-u")
                .with("uid", 4322)
                .with("gid", "dpt-g")
                .with("groups", list(&["games", "audio"]))
                .with("comment", "A B")
                .with("shell", "/bin/sh")
                .with("home", "/home/dpt")
                .with("managehome", true)
                .with("password", "$6$abc$def")
                .with("password_max_age", 90)
                .with("expiry", "2030-01-02"),
            user("dpt-v").with("uid", "4400").with("groups", "dpt-g"),
        ],
        vec![
            resource("Group", "dpt-g").with("gid", 4323),
            user("dpt-u")
                .with("uid", 4324)
                .with("gid", "games")
                .with("groups", list(&["audio", "video"]))
                .with("membership", "inclusive")
                .with("comment", "C")
                .with("shell", "/bin/bash")
                .with("home", "/home/dpt2")
                .with("password", "$6$abc$xyz")
                .with("password_max_age", 91)
                .with("password_min_age", 1)
                .with("password_warn_days", 3)
                .with("expiry", "absent"),
            user("dpt-v").with("groups", "audio"),
        ],
        vec![
            user("dpt-u").with("ensure", "absent"),
            user("dpt-v").with("ensure", "absent"),
            resource("Group", "dpt-g").with("ensure", "absent"),
        ],
    ];
    let files = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];
    compare("user and group", &Case { modules: Some(&[]), prepare: "", orders: orders(steps, &files) });
}

#[test]
fn keys() {
    let key = |name| resource("Ssh_authorized_key", name).with("user", "root").with("target", "/etc/dpt-keys");
    let host = |name| resource("Sshkey", name);
    let steps = vec![
        vec![
            key("me@x").with("type", "ssh-rsa").with("key", "AAAAB3Nza").with("options", list(&["no-pty", "command=\"a b\""])),
            key("gone").with("ensure", "absent"),
            key("old").with("type", "rsa").with("key", "AAAAnew"),
            // Puppet's reports name host keys so, whatever their titles.
            host("h.example.com@ssh-rsa").with("key", "AAAA1").with("host_aliases", list(&["h", "10.0.0.1"])),
            host("k.example.com@ssh-ed25519").with("key", "AAAA2"),
            host("o.example.com@ssh-rsa").with("key", "AAAA3").with("host_aliases", list(&[])),
        ],
        vec![
            key("me@x").with("type", "ed25519").with("key", "AAAAB3").with("options", "no-pty"),
            key("old").with("type", "rsa").with("key", "AAAAnew").with("options", list(&["no-X11-forwarding", "from=\"a,b\""])),
            host("k.example.com@ssh-ed25519").with("ensure", "absent"),
        ],
    ];
    let prepare = r#"printf 'no-pty ssh-rsa AAAAold old\nssh-ed25519 AAAAu\nssh-rsa AAAAgone gone\n# c\n' > /etc/dpt-keys
mkdir -p /etc/ssh; printf 'o.example.com,oo ssh-rsa AAAA9\n|1|hash= ssh-rsa AAA comment\n' > /etc/ssh/ssh_known_hosts"#;
    let files = ["/etc/dpt-keys", "/etc/ssh/ssh_known_hosts"];
    compare("ssh keys", &Case { modules: Some(&["sshkeys_core"]), prepare, orders: orders(steps, &files) });
}

#[test]
fn mounts() {
    let mount = |name| resource("Mount", name).with("device", "tmpfs").with("fstype", "tmpfs");
    let steps = vec![
        vec![
            mount("/home/dpt-m").with("ensure", "mounted").with("options", "size=1m"),
            mount("/home/dpt-n/").with("ensure", "defined").with("pass", 2).with("dump", 1),
        ],
        vec![
            mount("/home/dpt-m").with("ensure", "mounted").with("options", "size=2m"),
            mount("/home/dpt-n/").with("ensure", "present"),
        ],
        vec![mount("/home/dpt-m").with("ensure", "unmounted").with("options", "size=2m")],
        vec![resource("Mount", "/home/dpt-m").with("ensure", "absent"), mount("/home/dpt-n/").with("ensure", "mounted")],
        vec![resource("Mount", "/home/dpt-n/").with("ensure", "absent")],
    ];
    let prepare = r#"mkdir /home/dpt-m /home/dpt-n
printf '/dev/sda1 / ext4 errors=remount-ro 0 1\n# c\nproc  /proc proc defaults 0 0\nshort\n' > /etc/fstab"#;
    // What is mounted is in both machines only while they are entered, so the list is compared by the events.
    compare("mount", &Case { modules: Some(&["mount_core"]), prepare, orders: orders(steps, &["/etc/fstab"]) });
}

#[test]
fn accounts_of_another_root() {
    let steps = vec![
        vec![
            resource("Group", "dpt-g").with("gid", 5000).with("members", "dpt-old"),
            resource("User", "dpt-u")
                .with("uid", 5001)
                .with("gid", "dpt-g")
                .with("groups", "games")
                .with("password", "$6$a$b")
                .with("password_max_age", 90)
                .with("managehome", true)
                .with("expiry", "2030-01-02"),
        ],
        vec![
            resource("Group", "dpt-g").with("members", "dpt-u").with("auth_membership", true),
            resource("User", "dpt-u").with("uid", 5002).with("comment", "Hello").with("password", "$6$c$d"),
        ],
    ];
    let prepare = "mkdir -p /home/root/etc /home/root/home
cp /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/login.defs /home/root/etc
useradd -P /home/root -M -u 5100 dpt-old";
    let files = ["/home/root/etc/passwd", "/home/root/etc/group", "/home/root/etc/shadow", "/etc/passwd", "/etc/group"];
    let orders = Orders { root: "/home/root".to_owned(), ..orders(steps, &files) };
    let Some(machine) = run("accounts of another root", &Case { modules: None, prepare, orders }) else { return };
    let line = |step: usize, file: &str, name: &str| {
        let begin = format!("{name}:");
        machine.file(step, file).into_iter().find(|line| line.starts_with(&begin)).unwrap_or_default()
    };
    // The shell is what the machine has for a default.
    let passwd = |step: usize| line(step, "/home/root/etc/passwd", "dpt-u");
    assert!(passwd(0).starts_with("dpt-u:x:5001:5000::/home/dpt-u:"), "{}", passwd(0));
    assert_eq!(line(0, "/home/root/etc/group", "dpt-g"), "dpt-g:x:5000:dpt-old");
    let shadow = line(0, "/home/root/etc/shadow", "dpt-u");
    assert!(shadow.starts_with("dpt-u:$6$a$b:") && shadow.ends_with(":0:90:7::21916:"), "{shadow}");
    assert!(passwd(1).starts_with("dpt-u:x:5002:5000:Hello:/home/dpt-u:"), "{}", passwd(1));
    assert_eq!(line(1, "/home/root/etc/group", "dpt-g"), "dpt-g:x:5000:dpt-u");
    assert!(line(1, "/home/root/etc/shadow", "dpt-u").starts_with("dpt-u:$6$c$d:"));
    for file in ["/etc/passwd", "/etc/group"] {
        assert!(!machine.file(1, file).iter().any(|line| line.contains("dpt-")), "the running system was touched: {file}");
    }
}

#[test]
fn hashes_are_in_no_list_of_processes() {
    let user = |hash: &str| resource("User", "dpt-u").with("password", hash).with("password_max_age", 90);
    let steps = vec![vec![user("$6$abc$first")], vec![user("$6$abc$second")]];
    let prepare = r#"mount -t tmpfs none /usr/local/sbin
for tool in useradd usermod chage chpasswd; do
  printf '#!/bin/sh\necho "$0 $@" >> /etc/dpt-seen\nexec %s "$@"\n' "$(command -v $tool)" > /usr/local/sbin/$tool
  chmod 755 /usr/local/sbin/$tool
done"#;
    let case = Case { modules: None, prepare, orders: orders(steps, &["/etc/dpt-seen", "/etc/shadow"]) };
    let Some(machine) = run("hashes of passwords", &case) else { return };
    let seen = machine.file(1, "/etc/dpt-seen").join("\n");
    assert!(seen.contains("chpasswd -e") && seen.contains("useradd"), "the commands were not seen: {seen}");
    assert!(!seen.contains("$6$"), "{seen}");
    assert!(machine.file(1, "/etc/shadow").iter().any(|line| line.starts_with("dpt-u:$6$abc$second:")));
    let events = format!("{:?}{:?}", machine.events(0), machine.events(1));
    assert!(events.contains("changed [redacted] to [redacted]") && !events.contains("$6$"), "{events}");
}

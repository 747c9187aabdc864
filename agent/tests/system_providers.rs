//! Providers of packages, services and commands on a machine of their own; see [`machine`]. What differs by intent is told in
//! `tests/interop/DIFFERENCES.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod machine;
#[path = "../examples/support/mod.rs"]
mod support;

use machine::{Case, MESSAGES, compare, is_there, list, orders, resource, run};

/// Builds packages of which every file is in `/etc`, makes a repository of them, and has dpkg and apt work on copies of what they
/// know.
const PACKAGES: &str = r#"
for dir in /var/lib/dpkg /var/lib/apt /var/cache/apt /var/log; do
  copy=/home/copy$dir; mkdir -p $copy
  case $dir in /var/lib/dpkg) cp -a $dir/. $copy;; esac
  mount --bind $copy $dir
done
mkdir -p /var/log/apt /var/lib/apt/lists/partial /var/cache/apt/archives/partial
build() {
  tree=/home/build/$1-$2; mkdir -p $tree/DEBIAN $tree/etc /home/repo
  echo "$2" > $tree/etc/$1.conf
  echo /etc/$1.conf > $tree/DEBIAN/conffiles
  printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: m <m@example.com>\nDescription: test\n%s' "$1" "$2" "$3" \
    > $tree/DEBIAN/control
  dpkg-deb --build --root-owner-group $tree /home/repo/$1_${2#*:}_all.deb > /dev/null
}
build dpt-a 1.0-1; build dpt-a 1.1-1; build dpt-b 2.0 'Depends: dpt-a
'; build dpt-c 3.0; build dpt-d 1:4.0
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/home/repo ./' > /etc/apt/sources.list
(cd /home/repo; dpkg-scanpackages -m . > Packages 2> /dev/null)
apt-get -q update > /dev/null
apt-get -q -y install dpt-d > /dev/null 2>&1
"#;

#[test]
fn packages() {
    if !is_there("dpkg-deb") || !is_there("dpkg-scanpackages") || !is_there("apt-get") {
        println!("LEFT OUT: package on a real machine, which needs Debian with dpkg-dev");
        return;
    }
    let package = |name| resource("Package", name);
    let source = "/home/repo/dpt-c_3.0_all.deb";
    let steps = vec![
        vec![
            package("dpt-b").with("ensure", "installed"),
            package("dpt-a").with("ensure", "1.0-1").with("install_options", list(&["--no-install-recommends"])),
            package("by dpkg").with("name", "dpt-c").with("provider", "dpkg").with("source", source),
            package("dpt-d").with("ensure", "absent"),
            package("dpt-none").with("ensure", "purged"),
        ],
        vec![
            package("dpt-a").with("ensure", "latest"),
            package("by dpkg").with("name", "dpt-c").with("provider", "dpkg").with("source", source).with("mark", "hold"),
            package("dpt-d").with("ensure", "purged"),
        ],
        vec![package("dpt-a").with("ensure", "1.0-1")],
        vec![package("dpt-a").with("ensure", ">1.0-1 <2.0")],
        vec![package("dpt-b").with("ensure", "purged"), package("dpt-a").with("ensure", "absent")],
    ];
    let files = ["/etc/dpt-a.conf", "/etc/dpt-b.conf", "/etc/dpt-c.conf", "/etc/dpt-d.conf", "/var/lib/dpkg/status"];
    compare("package", &Case { modules: Some(&[]), prepare: PACKAGES, orders: orders(steps, &files) });
}

/// An init script whose service is a file.
const SERVICES: &str = r#"
cat > /etc/init.d/dpt << 'END'
#!/bin/sh
### BEGIN INIT INFO
# Provides:          dpt
# Required-Start:    $remote_fs
# Required-Stop:     $remote_fs
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
### END INIT INFO
case "$1" in
start) echo start >> /etc/dpt-calls; : > /etc/dpt-runs;;
stop) echo stop >> /etc/dpt-calls; rm -f /etc/dpt-runs;;
restart) echo restart >> /etc/dpt-calls;;
status) [ -e /etc/dpt-runs ];;
esac
END
chmod 755 /etc/init.d/dpt
"#;

#[test]
fn services() {
    if !std::path::Path::new("/usr/sbin/update-rc.d").exists() || std::path::Path::new("/run/systemd/system").exists() {
        println!("LEFT OUT: service on a real machine, which needs Debian's init scripts, and no systemd");
        return;
    }
    let script = || resource("Service", "dpt").with("provider", "debian");
    let own = || {
        let service = resource("Service", "own").with("provider", "base").with("status", "test -e /etc/dpt-own");
        service.with("start", "echo up > /etc/dpt-own").with("stop", "rm /etc/dpt-own && true")
    };
    let steps = vec![
        vec![script().with("ensure", "running").with("enable", true), own().with("ensure", "running")],
        vec![script().with("enable", false), own().with("ensure", "running")],
        vec![script().with("ensure", "stopped").with("enable", true), own().with("ensure", "stopped")],
        vec![script().with("enable", false).with("ensure", "stopped")],
    ];
    let case = |files: &[&str]| Case { modules: Some(&[]), prepare: SERVICES, orders: orders(steps.clone(), files) };
    compare("service", &case(&["/etc/dpt-calls", "/etc/dpt-runs", "/etc/dpt-own"]));
    // Puppet makes these anew when it disables a service, unless the package sysv-rc is installed.
    let (started, disabled) = ("/etc/rc2.d/S01dpt", "/etc/rc2.d/K01dpt");
    let Some(machine) = run("links of runlevels", &case(&[started, disabled])) else { return };
    let has = |step: usize, file: &str| !machine.file(step, file).is_empty();
    assert_eq!(
        [0, 1, 2, 3].map(|step| (has(step, started), has(step, disabled))),
        [(true, false), (false, true), (true, false), (false, true)]
    );
}

#[test]
fn commands() {
    // Each makes a file, so that there is nothing to do the second time.
    let made = |title: &str, file: &str| resource("Exec", title).with("creates", format!("/etc/dpt/{file}").as_str());
    let exec = |title| resource("Exec", title);
    let id = "/bin/echo $(id -u) $(id -g) $(id -G) $(umask) $(pwd) > /etc/dpt/id";
    let again = "/bin/echo x >> /etc/dpt/tries; test $(wc -l < /etc/dpt/tries) = 3";
    let steps = vec![vec![
        made("/bin/echo one > /etc/dpt/one", "one"),
        made("words", "two").with("command", "/bin/cp /etc/dpt/one /etc/dpt/two"),
        made("a list", "a;b $HOME").with("command", list(&["/bin/touch", "/etc/dpt/a;b $HOME"])),
        made("shell", "three").with("provider", "shell").with("command", "for i in 1 2; do echo $i; done > /etc/dpt/three"),
        made("path", "four")
            .with("command", "touch /etc/dpt/four")
            .with("path", "/usr/bin:/bin")
            .with("onlyif", "test -d /etc/dpt"),
        exec("not due").with("command", "/bin/false").with("unless", list(&["/bin/false", "/bin/true"])),
        exec("nor this").with("command", "/bin/false").with("onlyif", list(&["/bin/true", "/bin/false"])),
        exec("only refreshed").with("command", "/bin/false").with("refreshonly", true),
        made("status", "five").with("command", "/bin/touch /etc/dpt/five; exit 3").with("returns", list(&["0", "3"])),
        made("who", "id")
            .with("command", id)
            .with("path", "/usr/bin:/bin")
            .with("user", "games")
            .with("umask", "027")
            .with("cwd", "/home"),
        made("group", "group").with("command", "/usr/bin/id -g > /etc/dpt/group").with("user", "games").with("group", "audio"),
        made("variables", "env")
            .with("command", "/bin/echo \"$A $B\" > /etc/dpt/env")
            .with("environment", list(&["A=b c", "B=d=e"])),
        made("again", "tries").with("command", again).with("tries", 4).with("timeout", 20),
    ]];
    let names = ["one", "two", "a;b $HOME", "three", "four", "five", "id", "group", "env", "tries"];
    let files: Vec<String> = names.iter().map(|name| format!("/etc/dpt/{name}")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    compare("exec", &Case { modules: Some(&[]), prepare: "mkdir -m 777 /etc/dpt", orders: orders(steps, &files) });
}

#[test]
fn purged() {
    if std::process::Command::new("crontab").arg("-V").output().is_err() {
        println!("LEFT OUT: resources on a real machine, which needs crontab to be installed");
        return;
    }
    let purge = |name| resource("Resources", name).with("purge", true);
    let steps = vec![vec![
        resource("Host", "kept").with("ip", "10.0.0.1"),
        resource("Cron", "kept").with("command", "/bin/kept").with("user", "games").with("hour", 3).with("minute", 4),
        resource("User", "dpt-kept").with("uid", 4501),
        purge("host"),
        purge("cron"),
        purge("user").with("unless_system_user", 4400).with("unless_uid", list(&["4503", "65534"])),
    ]];
    let prepare = r#"chgrp crontab /var/spool/cron/crontabs; chmod 1730 /var/spool/cron/crontabs
printf '# c\n# Puppet Name: kept\n4 3 * * * /bin/kept\n# Puppet Name: gone\n1 * * * * /bin/gone\n*/5 1,2 * * 1 /bin/odd  job\n' | crontab -u games -
printf '10.0.0.1 kept\n10.0.0.2 gone more\n' > /etc/hosts
for uid in 4501 4502 4503; do
  printf 'dpt-%s:x:%s:60::/nonexistent:/bin/false\n' $uid $uid >> /etc/passwd; printf 'dpt-%s:*:19000::::::\n' $uid >> /etc/shadow
done
sed -i 's/dpt-4501/dpt-kept/' /etc/passwd /etc/shadow
awk -F: '$3 <= 4400 || $1 ~ /^(dpt-|nobody)/' /etc/passwd > /home/passwd; cat /home/passwd > /etc/passwd"#;
    let files = ["/etc/hosts", "/etc/passwd", "/var/spool/cron/crontabs/games"];
    compare("resources", &Case { modules: Some(&["host_core", "cron_core"]), prepare, orders: orders(steps, &files) });
}

/// What fails says why, and keeps nothing else from being done.
#[test]
fn what_cannot_be_done_fails_alone() {
    let steps = vec![vec![
        resource("User", "dpt-busy").with("ensure", "absent"),
        resource("Notify", "after it").with("require", "User[dpt-busy]"),
        resource("Cron", "job").with("command", "/bin/true").with("user", "games"),
        resource("Package", "dpt-locked").with("provider", "apt"),
        resource("File", "/etc/dpt-rest").with("content", "done\n"),
    ]];
    let prepare = r#"mount -t tmpfs none /usr/local/sbin
printf '#!/bin/sh\necho "crontabs/games: Input/output error" >&2; exit 1\n' > /usr/local/sbin/crontab
printf '#!/bin/sh\necho "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1 (apt)"; exit 100\n' > /usr/local/sbin/apt-get
chmod 755 /usr/local/sbin/*
echo 'dpt-busy:x:4601:60::/nonexistent:/bin/false' >> /etc/passwd; echo 'dpt-busy:*:19000::::::' >> /etc/shadow
setpriv --reuid=4601 --regid=60 --clear-groups sleep 60 > /dev/null 2>&1 &"#;
    let mut orders = orders(steps, &["/etc/passwd", "/etc/dpt-rest"]);
    orders.may_fail = true;
    let Some(machine) = run("what cannot be done", &Case { modules: None, prepare, orders }) else { return };
    let said = machine.file(0, MESSAGES).join("\n");
    for words in [
        "User[dpt-busy]: ensure: userdel ended with exit status: 8: userdel: user dpt-busy is currently used by process",
        "Notify[after it]: skipped because a dependency failed",
        "Cron[job]: read the crontab: crontab -l said: crontabs/games: Input/output error",
        "Package[dpt-locked]: ensure: another program installs packages just now: the next run tries again",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(machine.file(0, "/etc/dpt-rest"), ["done"]);
    assert!(machine.file(0, "/etc/passwd").iter().any(|line| line.starts_with("dpt-busy:")));
}

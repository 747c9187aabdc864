//! Providers of files, accounts and mounts on a machine of their own; see [`machine`]. What differs by intent is told in
//! `tests/interop/DIFFERENCES.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod machine;
#[path = "../examples/support/mod.rs"]
mod support;

use std::process::Command;

use machine::{Case, Orders, compare, is_there, list, orders, resource, run};

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
fn crontabs_of_users_that_are_not_there() {
    if Command::new("crontab").arg("-V").output().is_err() {
        println!("LEFT OUT: cron of nobody on a real machine, which needs crontab to be installed");
        return;
    }
    let cron = |name| resource("Cron", name).with("user", "dpt-gone");
    let steps = vec![vec![
        cron("absent").with("ensure", "absent"),
        cron("to be").with("command", "/bin/true").with("minute", 3).with("noop", true),
    ]];
    let mut orders = orders(steps, &[]);
    // What would be made would be made again.
    orders.may_fail = true;
    compare("cron of nobody", &Case { modules: Some(&["cron_core"]), prepare: "", orders });
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

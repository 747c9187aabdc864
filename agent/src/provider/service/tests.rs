//! The provider against a recorded conversation with systemd, and against real init scripts and daemons.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::apply::error_chain;
use crate::provider::file::tests::World;
use crate::provider::programs::tests::Fakes;

fn service(provider: &str) -> Resource {
    Resource::new("Service", "web").with("provider", provider)
}

fn provider(fakes: &Fakes) -> ServiceProvider {
    ServiceProvider { search: Some(fakes.path()), ..ServiceProvider::default() }
}

/// A systemctl as version 252 answers, for one unit whose state is in files.
const SYSTEMCTL: &str = r#"
case "$1" in
is-active) if [ -e running ]; then echo active; else echo inactive; exit 3; fi;;
is-enabled) cat enabled; [ "$(cat enabled)" = enabled ] || [ "$(cat enabled)" = static ];;
show) echo "NeedDaemonReload=$(cat reload 2>/dev/null || echo no)";;
daemon-reload) rm -f reload;;
start|restart) [ -e broken ] && { echo 'Job for web.service failed.' >&2; exit 1; }; : > running;;
stop) rm -f running;;
enable) echo enabled > enabled;;
disable) echo disabled > enabled;;
mask) echo masked > enabled;;
unmask) [ "$(cat enabled)" = masked ] && echo disabled > enabled; true;;
cat) exit 0;;
*) exit 9;;
esac"#;

#[tokio::test]
async fn systemd_by_a_recorded_conversation() {
    let (world, fakes) = (World::new(), Fakes::new());
    fakes.add("systemctl", SYSTEMCTL);
    fakes.add("journalctl", "echo 'web: no such port'");
    fakes.write("enabled", "masked\n");
    fakes.write("reload", "yes");
    let it = provider(&fakes);
    let wanted = service("systemd").with("ensure", "running").with("enable", true);
    // One change, as Puppet says it, that does both.
    assert_eq!(world.converge_by(&it, &wanted).await.unwrap(), ["ensure changed 'stopped' to 'running'"]);
    let calls = fakes.calls();
    let acts: Vec<&str> =
        calls.iter().map(String::as_str).filter(|call| !call.contains(" is-") && !call.contains(" show ")).collect();
    assert_eq!(
        acts,
        [
            "systemctl daemon-reload",
            "systemctl unmask -- web",
            "systemctl start -- web",
            "systemctl unmask -- web",
            "systemctl enable -- web"
        ]
    );
    assert_eq!(world.converge_by(&it, &wanted).await.unwrap(), [""; 0]);
    assert_eq!(fakes.calls(), ["systemctl is-active -- web", "systemctl is-enabled -- web"]);
    let (off, masked) = (service("systemd").with("enable", false), service("systemd").with("enable", "mask"));
    assert_eq!(world.converge_by(&it, &off).await.unwrap(), ["enable changed 'true' to 'false'"]);
    assert_eq!(world.converge_by(&it, &masked).await.unwrap(), ["enable changed 'false' to 'mask'"]);
    fakes.write("enabled", "static\n");
    assert_eq!(world.converge_by(&it, &off).await.unwrap(), [""; 0], "a static unit is neither");
    assert_eq!(world.converge_by(&it, &masked).await.unwrap(), ["enable changed 'true' to 'mask'"]);
    let stopped = service("systemd").with("ensure", "stopped");
    assert_eq!(world.converge_by(&it, &stopped).await.unwrap(), ["ensure changed 'running' to 'stopped'"]);
    fakes.write("broken", "");
    let error = world.converge_by(&it, &service("systemd").with("ensure", "running")).await.unwrap_err();
    assert!(error.contains("Job for web.service failed") && error.contains("no such port"), "{error}");
    fakes.add("systemctl", "echo 'Failed to connect to bus: No such file or directory' >&2; exit 1");
    let error = world.converge_by(&it, &stopped).await.unwrap_err();
    assert!(error.contains("connect to bus"), "{error}");
}

#[tokio::test]
async fn a_refresh_restarts_what_runs_and_was_not_just_started() {
    let (world, fakes) = (World::new(), Fakes::new());
    fakes.add("systemctl", SYSTEMCTL);
    fakes.write("enabled", "enabled\n");
    let (it, context) = (provider(&fakes), world.context());
    let resource = Arc::new(service("systemd").with("ensure", "running"));
    let has_restarted = || fakes.calls().contains(&"systemctl restart -- web".to_owned());
    assert!(it.refresh(&context, &resource).await.unwrap(), "it does not run, but heard");
    assert!(!has_restarted());
    let changes = it.check(&context, &resource).await.unwrap().changes;
    assert_eq!(it.apply(&context, &resource, &changes).await.unwrap(), Applied::default());
    assert!(!it.refresh(&context, &resource).await.unwrap(), "it was just started");
    assert!(!has_restarted());
    it.check(&context, &resource).await.unwrap();
    assert!(it.refresh(&context, &resource).await.unwrap());
    assert!(has_restarted());
    fakes.write("broken", "");
    assert!(it.refresh(&context, &resource).await.is_err());
}

#[tokio::test]
async fn init_scripts() {
    let (world, fakes) = (World::new(), Fakes::new());
    let scripts = tempfile::tempdir().unwrap();
    let script = scripts.path().join("web.sh");
    let text = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\necho $1 >> calls\n\
        case $1 in start) : > on;; stop) rm -f on;; status) [ -e on ];; restart) :;; esac\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let calls = || {
        let file = scripts.path().join("calls");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        drop(std::fs::remove_file(file));
        text.replace("status\n", "").trim().replace('\n', " ")
    };
    let web = |name: &str| service(name).with("path", scripts.path().to_str().unwrap()).with("ensure", "running");
    let it = provider(&fakes);
    assert_eq!(world.converge_by(&it, &web("init")).await.unwrap(), ["ensure changed 'stopped' to 'running'"]);
    assert_eq!(calls(), "start");
    for (has_restart, restarted) in [(true, "restart"), (false, "stop start")] {
        let resource = Arc::new(web("init").with("hasrestart", has_restart));
        it.check(&world.context(), &resource).await.unwrap();
        assert!(it.refresh(&world.context(), &resource).await.unwrap());
        assert_eq!(calls(), restarted);
    }
    // Debian's way of the same, and its links.
    fakes.add("service", "exit 3");
    fakes.add("invoke-rc.d", "exit $(cat status)");
    fakes.add("update-rc.d", "[ \"$2\" = defaults ] && echo 104 > status; [ \"$2\" = disable ] && echo 101 > status; true");
    fakes.write("status", "101");
    let debian = service("debian").with("enable", true);
    assert_eq!(world.converge_by(&it, &debian).await.unwrap(), ["enable changed 'false' to 'true'"]);
    let update = |calls: Vec<String>| calls.into_iter().filter(|call| call.starts_with("update")).collect::<Vec<_>>();
    assert_eq!(update(fakes.calls()), ["update-rc.d -f web remove", "update-rc.d web defaults"]);
    for level in 2..6 {
        world.write(&format!("/etc/rc{level}.d/S01web"), "");
    }
    fakes.write("status", "101");
    assert_eq!(world.converge_by(&it, &debian).await.unwrap(), [""; 0], "its links say that it is");
    fakes.write("status", "104");
    std::fs::remove_dir_all(world.context().root().path().join("etc/rc2.d")).unwrap();
    let off = service("debian").with("enable", false);
    assert_eq!(world.converge_by(&it, &off).await.unwrap(), ["enable changed 'true' to 'false'"]);
    assert_eq!(update(fakes.calls()), ["update-rc.d web disable"]);
    let none = Resource::new("Service", "none").with("provider", "init").with("ensure", "running");
    assert!(world.converge_by(&it, &none).await.unwrap_err().contains("no init script none"));
}

#[tokio::test]
async fn a_daemon_with_nothing_but_a_binary() {
    let (world, fakes) = (World::new(), Fakes::new());
    // A name that no other process has.
    let name = format!("dpt-daemon-{}", std::process::id());
    // In the table of processes the shell that starts it must not look like it.
    let start = format!("n={}; /bin/sh -c 'while :; do sleep 0.05; done' dpt-daemon-$n &", std::process::id());
    let wanted = service("base").with("pattern", name.as_str()).with("start", start.as_str());
    let it = provider(&fakes);
    let running = wanted.clone().with("ensure", "running");
    assert_eq!(world.converge_by(&it, &running).await.unwrap(), ["ensure changed 'stopped' to 'running'"]);
    assert!(it.refresh(&world.context(), &Arc::new(running.clone())).await.unwrap());
    assert_eq!(world.converge_by(&it, &running).await.unwrap(), [""; 0], "it runs again");
    let stopped = wanted.with("ensure", "stopped");
    assert_eq!(world.converge_by(&it, &stopped).await.unwrap(), ["ensure changed 'running' to 'stopped'"]);
    let nothing = service("base").with("pattern", name.as_str()).with("ensure", "running");
    assert!(world.converge_by(&it, &nothing).await.unwrap_err().contains("give start or binary"));
    let own = service("base").with("status", "exit 1").with("start", "exit 5").with("ensure", "running");
    assert!(world.converge_by(&it, &own).await.unwrap_err().contains("exit status: 5"));
}

#[tokio::test]
async fn what_manages_services() {
    let (world, fakes) = (World::new(), Fakes::new());
    let it = ServiceProvider { search: fakes.path().split(':').next().map(str::to_owned), ..ServiceProvider::default() };
    let context = world.context();
    let of_system = || system(&context, &Programs { context: &context, search: it.search.as_deref(), time_limit: TIME_LIMIT });
    assert_eq!(of_system(), Kind::Base);
    world.mkdir("/etc/init.d");
    assert_eq!(of_system(), Kind::Init);
    fakes.add("update-rc.d", "");
    assert_eq!(of_system(), Kind::Debian);
    world.mkdir("/run/systemd/system");
    assert_eq!(of_system(), Kind::Systemd);
    let real = ServiceProvider::default();
    let error = real.check(&context, &Arc::new(service("init"))).await.unwrap_err();
    assert!(error_chain(&error).contains("inside that root"), "{error}");
}

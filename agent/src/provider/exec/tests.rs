//! Commands that really run.

use std::time::{Duration, Instant};

use direct_puppet_transport::protocol::Value;

use super::*;
use crate::apply::error_chain;
use crate::provider::file::tests::World;

fn exec(command: &str) -> Resource {
    Resource::new("Exec", "it").with("command", command)
}

async fn converge(world: &World, resource: Resource) -> Result<Option<String>, ProviderError> {
    let (context, resource) = (world.context(), Arc::new(resource));
    let changes = ExecProvider::new().check(&context, &resource).await?.changes;
    if changes.is_empty() {
        return Ok(None);
    }
    let applied = ExecProvider::new().apply(&context, &resource, &changes).await?;
    Ok(Some(applied.failures.get(&0).cloned().unwrap_or_default()))
}

#[tokio::test]
async fn runs_when_due() {
    let world = World::new();
    let shell = |text: &str| exec(text).with("provider", "shell");
    assert_eq!(converge(&world, shell("echo $A > out").with("environment", "A=b c")).await.unwrap().unwrap(), "");
    assert_eq!(world.read("/out"), "b c\n");
    assert_eq!(converge(&world, exec("/bin/false").with("creates", "/out")).await.unwrap(), None);
    assert_eq!(
        converge(&world, exec("/bin/false").with("creates", vec![Value::from("/no"), "/out".into()])).await.unwrap(),
        None
    );
    assert_eq!(converge(&world, exec("/bin/false").with("unless", "/bin/true")).await.unwrap(), None);
    assert_eq!(converge(&world, exec("/bin/false").with("onlyif", "/bin/false")).await.unwrap(), None);
    assert_eq!(converge(&world, exec("/bin/false").with("returns", 1)).await.unwrap().unwrap(), "");
    let failed = converge(&world, shell("echo why; exit 4")).await.unwrap().unwrap();
    assert_eq!(failed, "'echo why; exit 4' returned 4 instead of one of [0]");
    let quiet = shell("echo why; exit 4").with("logoutput", false).with("returns", vec![Value::Integer(0), 2.into()]);
    assert_eq!(converge(&world, quiet).await.unwrap().unwrap(), "'echo why; exit 4' returned 4 instead of one of [0,2]");
}

#[tokio::test]
async fn what_it_creates_may_be_behind_links() {
    let world = World::new();
    world.write("/usr/bin/ls", "");
    world.link("/bin", "usr/bin");
    world.link("/link", "/bin/ls");
    world.link("/dangling", "none");
    world.link("/circle", "circle");
    let (context, provider) = (world.context(), ExecProvider::new());
    for (path, is_there, settles) in [
        ("/usr/bin/ls", true, true),
        ("/bin/ls", true, false),
        ("/link", true, false),
        ("/dangling", false, false),
        ("/circle", false, false),
        ("/bin/none", false, false),
        ("/bin/ls/none", false, false),
        ("/usr/bin/ls/none", false, false),
    ] {
        let resource = Arc::new(exec("/bin/true").with("creates", path));
        let checked = provider.check(&context, &resource).await.unwrap();
        assert_eq!((checked.changes.is_empty(), checked.witnesses.is_some()), (is_there, settles), "{path}");
        let ahead = provider.check_files(&context, &resource);
        assert_eq!(ahead.map(|checked| checked.unwrap().witnesses.is_some()), is_there.then_some(settles), "{path}");
    }
}

#[tokio::test]
async fn text_that_means_something_to_a_shell_gets_one() {
    let world = World::new();
    assert_eq!(converge(&world, exec("/bin/echo a b > out && /bin/echo c >> out")).await.unwrap().unwrap(), "");
    assert_eq!(world.read("/out"), "a b\nc\n");
    let list = Value::Array(["/bin/touch", "a;b"].map(Value::from).to_vec());
    assert_eq!(converge(&world, exec("").with("command", list)).await.unwrap().unwrap(), "");
    assert!(world.exists("/a;b"), "a list never sees a shell");
    let condition = exec("/bin/false").with("onlyif", "/bin/cat out | /bin/grep -q none");
    assert_eq!(converge(&world, condition).await.unwrap(), None);
    let path = exec("true").with("path", "/bin").with("environment", "PATH=/nonexistent");
    assert!(converge(&world, path).await.is_err(), "a PATH in the environment wins");
}

#[tokio::test]
async fn a_command_that_is_not_there_fails() {
    let world = World::new();
    for resource in [
        exec("/nonexistent/x"),
        exec("/nonexistent/x > /dev/null"),
        exec("/bin/true").with("unless", "/nonexistent/x | /bin/cat; exit 127"),
        exec("/nonexistent/x").with("umask", "022"),
    ] {
        let error = error_chain(&converge(&world, resource).await.unwrap_err());
        assert_eq!(error, "Could not find command '/nonexistent/x'");
    }
    for (resource, reason) in [
        (exec("cd / && ls").with("path", "/usr/bin:/bin"), "Could not find command 'cd'"),
        (exec("/bin/true").with("unless", "/tmp"), "'/tmp' is a directory, not a file"),
        (exec("/bin/true").with("cwd", "/none"), "Working directory /none does not exist!"),
        (
            exec("/bin/sh -c 'echo out; exit 127'").with("returns", 127),
            "'/bin/sh -c 'echo out; exit 127'' ended with 127, as when a command is not found: out",
        ),
    ] {
        assert_eq!(error_chain(&converge(&world, resource).await.unwrap_err()), reason);
    }
    let shell = exec("cd / && test -d tmp").with("provider", "shell");
    assert_eq!(converge(&world, shell).await.unwrap().unwrap(), "", "a shell has words of its own");
}

#[tokio::test]
async fn tries_again() {
    let world = World::new();
    let count = "/bin/echo x >> tries; [ $(/bin/wc -l < tries) = 3 ]";
    assert!(converge(&world, exec(count).with("tries", 2)).await.unwrap().unwrap().contains("returned 1"));
    assert_eq!(converge(&world, exec(count).with("tries", 5).with("try_sleep", Value::Float(0.01))).await.unwrap().unwrap(), "");
    assert_eq!(world.read("/tries"), "x\nx\nx\n");
}

#[tokio::test]
async fn user_group_and_umask() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    world.chmod("/", 0o777);
    world.write("/etc/passwd", "web:x:4301:4302::/:/bin/sh\n");
    world.write("/etc/group", "web:x:4302:\nextra:x:4303:web\nother:x:4304:\n");
    let ids = "/bin/echo $(/usr/bin/id -u) $(/usr/bin/id -g) $(/usr/bin/id -G) > out";
    for (user, group, seen) in [
        (Some("web"), None, "4301 4302 4302 4303"),
        (Some("web"), Some("other"), "4301 4304 4304 4302 4303"),
        (Some("4301"), None, "4301 4302 4302 4303"),
        (Some("4999"), Some("4998"), "4999 4998 4998"),
    ] {
        let mut resource = exec(ids).with("umask", "027");
        for (name, value) in [("user", user), ("group", group)] {
            if let Some(value) = value {
                resource = resource.with(name, value);
            }
        }
        assert_eq!(converge(&world, resource).await.unwrap().unwrap(), "", "{user:?}");
        assert_eq!(world.read("/out").trim(), seen);
        assert_eq!(world.mode("/out"), 0o640);
        std::fs::remove_file(world.context().root().path().join("out")).unwrap();
    }
    let error = converge(&world, exec("/bin/true").with("user", "nobody-at-all")).await.unwrap_err();
    assert!(error_chain(&error).contains("no user nobody-at-all"));
    let error = converge(&world, exec("/bin/true").with("user", 4999)).await.unwrap_err();
    assert!(error_chain(&error).contains("give group"), "it must not keep root's group");
    let condition = exec("/bin/false").with("user", "web").with("unless", "/usr/bin/test $(/usr/bin/id -u) = 4301");
    assert_eq!(converge(&world, condition).await.unwrap(), None, "conditions run as the user too");
}

#[tokio::test]
async fn what_hangs_floods_forks_and_ignores_signals_is_killed() {
    let world = World::new();
    let hang = "trap '' TERM INT HUP; (trap '' TERM; while :; do echo flood; done) & while :; do echo flood; done";
    let began = Instant::now();
    let resource = exec(hang).with("provider", "shell").with("timeout", Value::Float(0.3));
    let error = error_chain(&converge(&world, resource).await.unwrap_err());
    assert!(error.contains("took longer than") && error.len() < 1000, "{error}");
    assert!(began.elapsed() < Duration::from_secs(20));
    let flood = Arc::new(exec("/usr/bin/head -c 3000000 /dev/zero | /usr/bin/tr '\\0' x; exit 3"));
    let context = world.context();
    let changes = ExecProvider::new().check(&context, &flood).await.unwrap().changes;
    assert_eq!(ExecProvider::new().apply(&context, &flood, &changes).await.unwrap().failures.len(), 1);
    let said: usize = context.take_said().iter().map(|said| said.line.len()).sum();
    assert!((60_000..70_000).contains(&said), "{said}");
}

#[tokio::test]
async fn secrets_are_not_shown() {
    for text in ["/bin/sh -c 'echo hunter2; exit 1'", "/nonexistent/hunter2", "/nonexistent/hunter2 | /bin/false; exit 127"] {
        let secret = Value::Sensitive(Box::new(text.into()));
        let failure = match converge(&World::new(), exec("").with("command", secret)).await {
            Ok(failure) => failure.unwrap(),
            Err(error) => error_chain(&error),
        };
        assert!(!failure.is_empty() && !failure.contains("hunter2"), "{failure}");
    }
    let secret = Value::Sensitive(Box::new("/bin/sleep 60".into()));
    let hangs = exec("").with("command", secret).with("timeout", Value::Float(0.05));
    let failure = error_chain(&converge(&World::new(), hangs).await.unwrap_err());
    assert_eq!(failure, "Exec[it]: run a command: [command redacted] took longer than 50ms and was killed");
    let secret = |value: Value| Value::Sensitive(Box::new(value));
    let returns = secret(vec![Value::Integer(0), secret(Value::Integer(3))].into());
    assert_eq!(converge(&World::new(), exec("/bin/sh -c 'exit 3'").with("returns", returns)).await.unwrap().unwrap(), "");
}

#[tokio::test]
async fn refresh_only_runs_when_refreshed() {
    let world = World::new();
    let resource = Arc::new(exec("/bin/touch ran").with("refreshonly", true));
    let context = world.context();
    assert_eq!(ExecProvider::new().check(&context, &resource).await.unwrap().changes, []);
    assert!(ExecProvider::new().refresh(&context, &resource).await.unwrap());
    assert!(world.exists("/ran"));
    world.write("/there", "");
    let not_due = Arc::new(exec("/bin/touch not").with("creates", "/there"));
    assert!(ExecProvider::new().refresh(&context, &not_due).await.unwrap(), "it was heard");
    assert!(!world.exists("/not"));
    let other = Arc::new(exec("/bin/true").with("refresh", "/bin/false"));
    assert!(ExecProvider::new().refresh(&context, &other).await.is_err());
}

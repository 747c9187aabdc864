//! Services as resources.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use direct_puppet_transport::protocol::Resource;

use super::parameters::{Kind, Parameters};
use super::{ServiceProvider, system};
use crate::provider::instances::unlisted;
use crate::provider::{Context, ProviderError};

/// Init scripts that do something else than what they are asked for, or need to be told more: those that Puppet leaves out too.
const NO_SERVICES: &[&str] = &[
    "boot",
    "cryptdisks-udev",
    "functions",
    "functions.sh",
    "gssd-mounting",
    "halt",
    "idmapd-mounting",
    "killall",
    "linuxconf",
    "module-init-tools",
    "plymouth-ready",
    "portmap-wait",
    "rcS",
    "reboot",
    "reboot.sh",
    "shutdown.sh",
    "single",
    "startpar-bridge",
    "statd-mounting",
    "wait-for-state",
];

/// What systemd says of unit files that are services.
const UNIT_FILE_STATES: &[&str] = &["disabled", "enabled", "masked", "indirect", "bad", "static"];

impl ServiceProvider {
    /// Lists services; one of a name is told of also when it is not there.
    pub(super) async fn list(&self, context: &Context, name: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let failed = |reason: String| unlisted("Service", reason);
        let probe = Resource::new("Service", name.unwrap_or("all"));
        let parameters = Parameters::parse(&probe)?;
        let service = self.service(context, &probe, &parameters)?;
        let kind = system(context, &service.programs);
        let names = match (name, kind) {
            (Some(name), _) => vec![name.to_owned()],
            (None, Kind::Systemd) => {
                let argv = ["systemctl", "list-unit-files", "--type", "service", "--full", "--all", "--no-pager"];
                unit_files(&service.programs.answer(&argv).await.map_err(failed)?)
            }
            (None, Kind::Debian | Kind::Init) => parameters.path.iter().flat_map(|path| scripts(Path::new(path))).collect(),
            (None, Kind::Base) => Vec::new(),
        };
        let mut found = Vec::new();
        for name in names {
            found.push(self.describe(context, &name, kind).await.map_err(|reason| failed(format!("{name}: {reason}")))?);
        }
        Ok(found)
    }

    async fn describe(&self, context: &Context, name: &str, kind: Kind) -> Result<Resource, String> {
        let mut probe = Resource::new("Service", name).with("ensure", "running").with("provider", word(kind));
        match kind {
            // Asked so, all states are told.
            Kind::Systemd => probe = probe.with("enable", "mask"),
            Kind::Debian => probe = probe.with("enable", true),
            Kind::Init | Kind::Base => {}
        }
        let parameters = Parameters::parse(&probe).map_err(|error| error.to_string())?;
        let service = self.service(context, &probe, &parameters).map_err(|error| error.to_string())?;
        let state = service.state().await?;
        let ensure = if state.running { "running" } else { "stopped" };
        let resource = Resource::new("Service", name).with("ensure", ensure).with("provider", word(kind));
        Ok(match state.enabled {
            Some(enabled) => resource.with("enable", enabled.word()),
            None => resource,
        })
    }
}

const fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Systemd => "systemd",
        Kind::Debian => "debian",
        Kind::Init => "init",
        Kind::Base => "base",
    }
}

fn unit_files(answer: &str) -> Vec<String> {
    let unit = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, state) = (words.next()?, words.next()?);
        UNIT_FILE_STATES.contains(&state).then(|| name.to_owned())
    };
    answer.lines().filter_map(unit).collect()
}

/// Lists the init scripts of a directory. Blocking, for the time of listing it.
fn scripts(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let is_script = |path: &Path| {
        let is_upstart = std::fs::read_link(path).is_ok_and(|target| target == Path::new("/lib/init/upstart-job"));
        !is_upstart && path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let names = entries.filter(|entry| is_script(&entry.path())).filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.') && !NO_SERVICES.contains(&name.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::tests::World;
    use crate::provider::programs::tests::Fakes;

    const SYSTEMCTL: &str = r#"
case "$1 $3" in
"list-unit-files service") echo 'UNIT FILE STATE PRESET'; echo 'web.service enabled enabled'; echo 'alias.service alias -'
    echo 'off.service masked enabled'; echo 'fixed.service static -'; echo; echo '4 unit files listed.';;
"is-active web.service") echo active;;
"is-enabled web.service") echo enabled;;
"is-enabled off.service") echo masked; exit 1;;
"is-enabled fixed.service") echo static;;
*) echo inactive; exit 3;;
esac"#;

    #[tokio::test]
    async fn units_are_listed() {
        let (world, fakes) = (World::new(), Fakes::new());
        world.mkdir("/run/systemd/system");
        fakes.add("systemctl", SYSTEMCTL);
        let provider = ServiceProvider { search: Some(fakes.path()), ..ServiceProvider::default() };
        let of = |title: &str, ensure: &str, enable: &str| {
            let service = Resource::new("Service", title).with("ensure", ensure).with("provider", "systemd");
            service.with("enable", enable)
        };
        let all =
            [of("web.service", "running", "true"), of("off.service", "stopped", "mask"), of("fixed.service", "stopped", "true")];
        assert_eq!(provider.list(&world.context(), None).await.unwrap(), all);
        assert_eq!(provider.list(&world.context(), Some("none")).await.unwrap(), [of("none", "stopped", "false")]);
        let calls = fakes.calls();
        assert!(calls.iter().all(|call| ["list-unit-files", "is-active", "is-enabled"].iter().any(|verb| call.contains(verb))));
    }

    #[test]
    fn init_scripts_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        for (name, mode) in [("web", 0o755), ("README", 0o644), ("reboot", 0o755), (".hidden", 0o755)] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::symlink("/lib/init/upstart-job", dir.path().join("job")).unwrap();
        assert_eq!(scripts(dir.path()), ["web"]);
        assert_eq!(scripts(&dir.path().join("none")), [""; 0]);
    }
}

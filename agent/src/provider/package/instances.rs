//! Packages of the system as resources.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::Resource;

use super::manager::{Installed, Kind, State};
use super::{PackageProvider, rpm};
use crate::provider::instances::unlisted;
use crate::provider::{Context, ProviderError};

impl PackageProvider {
    /// Lists what the package manager of the system has installed; one of a name is told of also when it is not.
    pub(super) async fn list(&self, context: &Context, name: Option<&str>) -> Result<Vec<Resource>, ProviderError> {
        let failed = |reason: String| unlisted("Package", reason);
        let chosen = self.choose(context, &Resource::new("Package", name.unwrap_or("all")))?;
        let subject = self.subject(context, &chosen);
        if let Some(name) = name {
            let state = chosen.manager.query(&subject).await.map_err(failed)?;
            return Ok(vec![describe(name, chosen.kind, &state)]);
        }
        match chosen.kind {
            Kind::Apt | Kind::Dpkg => {
                let states = subject.files.states(context).map_err(failed)?;
                Ok(states.iter().map(|(name, state)| describe(name, chosen.kind, state)).collect())
            }
            Kind::Dnf | Kind::Yum | Kind::Rpm => {
                let format = format!("--queryformat={}", rpm::FORMAT);
                let answer =
                    subject.run(&["rpm", "--query", "--all", "--nosignature", "--nodigest", &format]).await.map_err(failed)?;
                let mut lines: BTreeMap<&str, String> = BTreeMap::new();
                for line in answer.lines() {
                    let name = line.split_whitespace().next().unwrap_or_default();
                    let lines = lines.entry(name).or_default();
                    lines.push_str(line);
                    lines.push('\n');
                }
                let states = lines.into_iter().map(|(name, lines)| (name, State::of_versions(rpm::versions(&lines))));
                Ok(states
                    .filter(|(_, state)| state.is_there())
                    .map(|(name, state)| describe(name, chosen.kind, &state))
                    .collect())
            }
            Kind::Gem | Kind::Pip | Kind::Pip2 | Kind::Pip3 => Ok(Vec::new()),
        }
    }
}

fn describe(name: &str, kind: Kind, state: &State) -> Resource {
    let ensure = match &state.installed {
        Installed::Purged => "purged".to_owned(),
        Installed::Absent => "absent".to_owned(),
        Installed::Versions(versions) => versions.join("; "),
    };
    let resource = Resource::new("Package", name).with("ensure", ensure).with("provider", kind.name());
    if state.is_there() && kind.features().holds {
        resource.with("mark", if state.held { "hold" } else { "none" })
    } else {
        resource
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::tests::World;
    use crate::provider::programs::tests::Fakes;

    async fn told(provider: &PackageProvider, world: &World, name: Option<&str>) -> Vec<String> {
        let found = provider.list(&world.context(), name).await.unwrap();
        let text = |resource: &Resource, name: &str| resource.parameter(name).and_then(|value| value.as_str().map(str::to_owned));
        let told = found.iter().map(|resource| {
            let values = ["provider", "ensure", "mark"].map(|name| text(resource, name).unwrap_or_default());
            format!("{} {}", resource.title, values.join(" ")).trim_end().to_owned()
        });
        told.collect()
    }

    #[tokio::test]
    async fn what_dpkg_has_is_listed() {
        let world = World::new();
        world.write("/etc/os-release", "ID=debian\n");
        let of = |name: &str, status: &str| format!("Package: {name}\nStatus: {status}\nVersion: 1.0-1\nArchitecture: amd64\n\n");
        let status = [of("web", "install ok installed"), of("db", "hold ok installed"), of("old", "deinstall ok config-files")];
        world.write("/var/lib/dpkg/status", status.concat());
        let provider = PackageProvider::default();
        let all = ["db apt 1.0-1 hold", "old apt absent", "web apt 1.0-1 none"];
        assert_eq!(told(&provider, &world, None).await, all);
        assert_eq!(told(&provider, &world, Some("web")).await, all[2..]);
        assert_eq!(told(&provider, &world, Some("none")).await, ["none apt purged"]);
    }

    #[tokio::test]
    async fn what_rpm_has_is_listed() {
        let (world, fakes) = (World::new(), Fakes::new());
        fakes.add("dnf", "");
        fakes.add(
            "rpm",
            "echo 'web 0 1.2 3 x86_64'; echo 'kernel 0 6 1 x86_64'; echo 'kernel 0 6 2 x86_64'; echo 'db 2 1 1 noarch'",
        );
        let provider = PackageProvider { search: Some(fakes.path()), ..PackageProvider::default() };
        assert_eq!(told(&provider, &world, None).await, ["db dnf 2:1-1", "kernel dnf 6-1; 6-2", "web dnf 1.2-3"]);
    }
}

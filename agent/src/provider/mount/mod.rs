//! The `Mount` type: entries of `/etc/fstab`, and whether they are mounted.
//!
//! What differs, and why:
//!
//! * Lines of others stay as they are, and no header with the time of the run is written.
//! * What has just been mounted is not mounted again at once, as Puppet does.
//! * Below another root only entries are managed: `mounted`, and `unmounted`, fail there.
//! * `blockdevice` and `atboot` mean nothing on Linux; an entry that is mounted with other options is mounted again when the
//!   entry changes, as in Puppet, not when only what is mounted differs.

mod fstab;
mod instances;
mod parameters;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use direct_puppet_transport::protocol::{Catalog, Resource, ResourceRef};

use super::command::{self, CommandSpec};
use super::difference::{Differences, Shown};
use super::file::{blocking, errors, read};
use super::instances::listed;
use super::lines::Lines;
use super::record::applied;
use super::text_file::{TextCache, TextFile};
use super::{Applied, Change, Checked, Context, Provider, ProviderError};
use crate::fs::{Attributes, FsError};
use fstab::Entry;
use parameters::{Ensure, Parameters};

/// How long mounting may take: servers that do not answer.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// The table of file systems.
const FSTAB: &str = "/etc/fstab";

/// What is mounted on the running system.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Manages file systems.
#[derive(Debug, Clone, Default)]
pub(super) struct MountProvider {
    files: Arc<TextCache<Lines<Entry>>>,
}

/// What there is.
#[derive(Debug, Clone)]
struct Found {
    /// Its line, and what it says.
    entry: Option<(usize, Entry)>,
    mounted: bool,
}

impl Found {
    /// Returns the word that Puppet has for it.
    const fn name(&self) -> &'static str {
        match (&self.entry, self.mounted) {
            (Some(_), true) => "mounted",
            (Some(_), false) => "unmounted",
            (None, true) => "ghost",
            (None, false) => "absent",
        }
    }

    fn is_in_sync(&self, ensure: Ensure) -> bool {
        (ensure == Ensure::Defined && self.entry.is_some()) || ensure.name() == self.name()
    }
}

fn is_running_system(context: &Context) -> bool {
    context.root().path() == Path::new("/")
}

/// Returns where something is mounted; below another root nothing is known of that.
fn mounted(context: &Context) -> Result<Vec<Vec<u8>>, std::io::Error> {
    if is_running_system(context) { Ok(fstab::mounted(&std::fs::read(MOUNTINFO)?)) } else { Ok(Vec::new()) }
}

fn is_mounted(context: &Context, name: &str) -> Result<bool, std::io::Error> {
    Ok(mounted(context)?.iter().any(|mounted| mounted == name.as_bytes()))
}

fn find(lines: &Lines<Entry>, name: &str) -> Option<(usize, Entry)> {
    lines.records().rev().find(|(_, entry)| entry.name == name).map(|(at, entry)| (at, entry.clone()))
}

impl Parameters {
    fn compare(&self, resource: &Resource, found: &Found) -> Vec<Change> {
        let mut differences = Differences::of(resource);
        if let Some(ensure) = self.ensure.filter(|ensure| !found.is_in_sync(*ensure)) {
            let word = |name: &str| if name == "absent" { Shown::Absent } else { Shown::Text(name.to_owned()) };
            differences.add("ensure", &word(found.name()), &word(ensure.name()));
        } else if let Some((_, entry)) = &found.entry {
            let text = |text: &String| Shown::Text(text.clone());
            let compare = |found: &mut Differences<'_>, name: &str, current: Option<&String>, wanted: Option<&String>| {
                found.compare(name, &current.map_or(Shown::Absent, text), wanted.map(text).as_ref());
            };
            compare(&mut differences, "device", Some(&entry.device), self.device.as_ref());
            compare(&mut differences, "fstype", entry.fstype.as_ref(), self.fstype.as_ref());
            compare(&mut differences, "options", entry.options.as_ref(), self.options.as_ref());
            for (name, current, wanted) in [("pass", &entry.pass, self.pass), ("dump", &entry.dump, self.dump)] {
                if current.as_deref() != Some(&wanted.to_string()) {
                    differences.add(name, &current.as_ref().map_or(Shown::Absent, text), &Shown::Number(wanted));
                }
            }
        }
        differences.into_changes()
    }

    fn create(&self) -> Result<Entry, String> {
        Ok(Entry {
            device: self.device.clone().ok_or("Field 'device' is required")?,
            name: self.name.clone(),
            fstype: Some(self.fstype.clone().ok_or_else(|| format!("Mount[{}]: Field 'fstype' is required", self.name))?),
            options: Some(self.options.clone().unwrap_or_else(|| "defaults".to_owned())),
            dump: Some(self.dump.to_string()),
            pass: Some(self.pass.to_string()),
        })
    }

    fn update(&self, entry: &mut Entry) {
        if let Some(device) = &self.device {
            entry.device.clone_from(device);
        }
        for (field, wanted) in [(&mut entry.fstype, &self.fstype), (&mut entry.options, &self.options)] {
            if wanted.is_some() {
                field.clone_from(wanted);
            }
        }
        entry.dump = Some(self.dump.to_string());
        entry.pass = Some(self.pass.to_string());
    }

    /// Makes the entry as it shall be. Blocking.
    fn write(&self, context: &Context) -> Result<(), String> {
        let text = |error: FsError| errors::chain(&error);
        let file = TextFile::load(context, &self.target).map_err(text)?;
        let mut lines = Lines::parse(&file.text, fstab::parse);
        match (find(&lines, &self.name), self.ensure) {
            (Some((at, _)), Some(Ensure::Absent)) => lines.remove(at),
            (None, Some(Ensure::Absent) | None) => {}
            (Some((at, mut entry)), _) => {
                let before = entry.clone();
                self.update(&mut entry);
                if entry != before {
                    lines.replace(at, &fstab::print(&entry));
                }
            }
            (None, Some(_)) => lines.push(&fstab::print(&self.create()?)),
        }
        file.replace(context, lines.print(), Attributes::default()).map_err(text)
    }
}

impl MountProvider {
    /// Returns the entries that nobody manages, as resources that shall be absent. Blocking.
    pub(super) fn unmanaged(&self, context: &Context) -> Result<Vec<Resource>, String> {
        let target = read::absolute_path(FSTAB)?;
        let lines = self.files.load(context, &target, |text| Lines::parse(text, fstab::parse));
        let lines = lines.map_err(|error| errors::chain(&error))?;
        let managed = context.resources_of("Mount").map(|resource| Parameters::parse(resource).map(|wanted| wanted.name));
        let managed = managed.collect::<Result<Vec<_>, _>>().map_err(|error| errors::chain(&error))?;
        let strangers = lines.records().map(|(_, entry)| entry).filter(|entry| !managed.contains(&entry.name));
        // What is no path, as none of swap, is not mounted anywhere.
        let strangers = strangers.filter(|entry| entry.name.starts_with('/'));
        Ok(strangers.map(|entry| Resource::new("Mount", entry.name.as_str()).with("ensure", "absent")).collect())
    }

    async fn found(&self, context: &Context, resource: &Arc<Resource>) -> Result<Found, ProviderError> {
        let (files, context, reference) = (Arc::clone(&self.files), context.clone(), resource.reference());
        let resource = Arc::clone(resource);
        let look = move || {
            let parameters = Parameters::parse(&resource)?;
            let fail = |attempt: &str, error: Box<dyn std::error::Error + Send + Sync>| {
                errors::failed(&resource.reference(), attempt, error)
            };
            let lines = files.load(&context, &parameters.target, |text| Lines::parse(text, fstab::parse));
            let lines = lines.map_err(|error| fail("read the table of file systems", error.into()))?;
            let mounted = is_mounted(&context, &parameters.name).map_err(|error| fail("read what is mounted", error.into()))?;
            Ok(Found { entry: find(&lines, &parameters.name), mounted })
        };
        blocking(reference, look).await
    }
}

async fn run(context: &Context, argv: &[&str]) -> Result<(), String> {
    if !is_running_system(context) {
        return Err("file systems can be mounted on the running system alone: use ensure => defined".to_owned());
    }
    let spec =
        CommandSpec { argv: argv.iter().map(Into::into).collect(), time_limit: Some(TIME_LIMIT), ..CommandSpec::default() };
    let output = command::run(spec, context.cancel()).await.map_err(|error| errors::chain(&error))?;
    if output.status.success() { Ok(()) } else { Err(format!("{} said: {}", argv.join(" "), output.text().trim())) }
}

async fn remount(context: &Context, parameters: &Parameters) -> Result<(), String> {
    if parameters.remounts {
        return run(context, &["mount", "-o", "remount", &parameters.name]).await;
    }
    run(context, &["umount", &parameters.name]).await?;
    run(context, &["mount", &parameters.name]).await
}

async fn write(context: &Context, resource: &Arc<Resource>) -> Result<(), String> {
    let (of, resource) = (context.clone(), Arc::clone(resource));
    let work = move || Ok(Parameters::parse(&resource)?.write(&of));
    blocking(ResourceRef { resource_type: "Mount".to_owned(), title: String::new() }, work)
        .await
        .map_err(|error| errors::chain(&error))?
}

/// Makes everything as it shall be, in an order in which what is mounted is never without its entry.
async fn converge(context: &Context, resource: &Arc<Resource>, parameters: &Parameters, found: &Found) -> Result<(), String> {
    let unmount = async || run(context, &["umount", &parameters.name]).await;
    match parameters.ensure.filter(|ensure| !found.is_in_sync(*ensure)) {
        Some(Ensure::Absent) => {
            if found.mounted {
                unmount().await?;
            }
            write(context, resource).await
        }
        Some(Ensure::Unmounted) => {
            write(context, resource).await?;
            if found.mounted { unmount().await } else { Ok(()) }
        }
        Some(Ensure::Mounted) if !is_running_system(context) => run(context, &["mount", &parameters.name]).await,
        Some(Ensure::Mounted) => {
            write(context, resource).await?;
            if found.mounted { Ok(()) } else { run(context, &["mount", &parameters.name]).await }
        }
        Some(Ensure::Defined) => write(context, resource).await,
        None => {
            write(context, resource).await?;
            if found.mounted && parameters.fstype.as_deref() != Some("swap") {
                remount(context, parameters).await
            } else {
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Provider for MountProvider {
    fn resource_type(&self) -> &str {
        "Mount"
    }

    fn validate(&self, resource: &Resource) -> Result<(), ProviderError> {
        Parameters::parse(resource).map(drop)
    }

    fn autorequire(&self, resource: &Resource, _catalog: &Catalog) -> Vec<ResourceRef> {
        let Ok(parameters) = Parameters::parse(resource) else { return Vec::new() };
        let mut above = read::absolute_path(&parameters.name).ok().and_then(|path| path.parent());
        let mut required = Vec::new();
        while let Some(path) = above {
            required.push(ResourceRef { resource_type: "Mount".to_owned(), title: path.absolute() });
            above = path.parent();
        }
        required
    }

    fn alias(&self, resource: &Resource) -> Option<String> {
        Parameters::parse(resource).ok().map(|parameters| parameters.name).filter(|name| *name != resource.title)
    }

    async fn check(&self, context: &Context, resource: &Arc<Resource>) -> Result<Checked, ProviderError> {
        let found = self.found(context, resource).await?;
        let changes = Parameters::parse(resource)?.compare(resource, &found);
        Ok(Checked { resources: 1, changes, ..Checked::default() })
    }

    async fn instances(&self, context: &Context, _name: Option<&str>) -> Result<Option<Vec<Resource>>, ProviderError> {
        let (files, of) = (Arc::clone(&self.files), context.clone());
        listed("Mount", move || instances::list(&of, &files)).await
    }

    async fn apply(&self, context: &Context, resource: &Arc<Resource>, changes: &[Change]) -> Result<Applied, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let found = self.found(context, resource).await?;
        Ok(applied(changes, converge(context, resource, &parameters, &found).await))
    }

    fn refreshes(&self) -> bool {
        true
    }

    async fn refresh(&self, context: &Context, resource: &Arc<Resource>) -> Result<bool, ProviderError> {
        let parameters = Parameters::parse(resource)?;
        let found = self.found(context, resource).await?;
        if !found.mounted || parameters.fstype.as_deref() == Some("swap") {
            return Ok(true);
        }
        let done = remount(context, &parameters).await;
        done.map(|()| true).map_err(|reason| errors::failed(&resource.reference(), "mount it again", reason))
    }
}

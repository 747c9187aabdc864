//! Makes changes, in an order in which each finds what it needs: directories, files, links, attributes, removals.

use std::collections::BTreeMap;

use direct_puppet_transport::protocol::{Resource, TreePath};

use super::backup::{Keeper, MAX_ENTRIES};
use super::desired::{self, Desired, Exclusions, Expansion, Want};
use super::identity::Identities;
use super::owner::AccountCache;
use super::parameters::Parameters;
use super::place;
use super::source::Content;
use crate::fs::{Attributes, FileKind, FsError, Stat};
use crate::provider::{Applied, Change, Context, Ownership, ProviderError};

/// Permissions that an unprivileged process needs on a directory in which it creates something.
const OWN_WRITE_AND_SEARCH: u32 = 0o300;

/// What is to be done at one path.
#[derive(Debug)]
pub(super) enum Action {
    Nothing,
    CreateDirectory,
    PutFile(Option<Content>),
    PutLink(Vec<u8>),
    SetAttributes,
    Remove,
}

/// One path with its changes.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) desired: Desired,
    /// Where it really is, when links are followed.
    pub(super) path: TreePath,
    /// What is there now.
    pub(super) stat: Option<Stat>,
    pub(super) action: Action,
    /// The changes that it makes, by index.
    pub(super) indexes: Vec<usize>,
}

impl Job {
    /// Returns whether a whole directory goes.
    pub(super) fn destroys_directory(&self) -> bool {
        self.stat.is_some_and(|stat| stat.kind() == FileKind::Directory)
    }
}

/// The state of applying one resource.
#[derive(Debug)]
pub(super) struct Application<'a> {
    pub(super) context: &'a Context,
    pub(super) parameters: &'a Parameters,
    pub(super) identities: &'a Identities,
    pub(super) applied: Applied,
}

/// Makes changes. Blocking; needs a tokio runtime around it for `validate_cmd`.
///
/// # Errors
///
/// When parameters make no sense, no source exists, or the run was cancelled before the first change.
pub(super) fn apply(
    context: &Context,
    cache: &AccountCache,
    resource: &Resource,
    changes: &[Change],
) -> Result<Applied, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    if context.cancel().is_cancelled() {
        return Err(ProviderError::Cancelled { resource: resource.reference() });
    }
    let exclusions = Exclusions::new(&parameters.path, context.managed());
    let expansion = Expansion::new(context.root(), resource, &parameters, &exclusions)?;
    let identities = Identities::load(context, cache, resource, &parameters)?;
    let mut application = Application { context, parameters: &parameters, identities: &identities, applied: Applied::default() };
    let jobs = application.jobs(resource, expansion, &exclusions, changes);
    application.run(jobs);
    Ok(application.applied)
}

/// Jobs by what they do, each in the order of paths.
#[derive(Debug, Default)]
struct Order {
    directories: Vec<Job>,
    files: Vec<Job>,
    links: Vec<Job>,
    attributes: Vec<Job>,
    removals: Vec<Job>,
}

impl Application<'_> {
    /// Groups changes by path.
    fn jobs(
        &mut self,
        resource: &Resource,
        mut expansion: Expansion,
        exclusions: &Exclusions<'_>,
        changes: &[Change],
    ) -> Vec<(Desired, Vec<usize>, bool)> {
        let mut jobs: BTreeMap<TreePath, (Desired, Vec<usize>, bool)> = BTreeMap::new();
        for (index, change) in changes.iter().enumerate() {
            let path = desired::path_of(resource, self.parameters, &change.resource).filter(|path| !exclusions.covers(path));
            let Some(path) = path else {
                self.fail(&[index], format!("{} is not managed by {}", change.resource, resource.reference()));
                continue;
            };
            let changes_more = matches!(change.property.as_str(), "ensure" | "content" | "target");
            let purges = change.property == "ensure" && change.desired == "absent";
            let job = jobs.entry(path).or_insert_with_key(|path| {
                let plain = |want| Desired::plain(path.clone(), want);
                let desired = expansion.desired.remove(path);
                (desired.unwrap_or_else(|| plain(if purges { Want::Absent } else { Want::Attributes })), Vec::new(), false)
            });
            job.1.push(index);
            job.2 |= changes_more;
        }
        jobs.into_values().collect()
    }

    /// Records a failure of changes.
    pub(super) fn fail(&mut self, indexes: &[usize], reason: impl Into<String>) {
        let reason = reason.into();
        self.applied.failures.extend(indexes.iter().map(|&index| (index, reason.clone())));
    }

    /// Records a failed operation.
    pub(super) fn fail_with(&mut self, indexes: &[usize], error: &FsError) {
        self.fail(indexes, super::errors::chain(error));
    }

    /// Returns whether the run goes on; if not, says so of all `jobs`.
    pub(super) fn goes_on(&mut self, jobs: &[Job]) -> bool {
        if !self.context.cancel().is_cancelled() {
            return true;
        }
        for job in jobs {
            self.fail(&job.indexes, "not changed: the run was cancelled");
        }
        false
    }

    fn run(&mut self, jobs: Vec<(Desired, Vec<usize>, bool)>) {
        let order = self.order(jobs);
        let late = self.create_directories(order.directories);
        place::files(self, order.files);
        self.in_chunks(order.links, Self::put_link);
        self.in_chunks(order.attributes, Self::set_attributes);
        for (path, attributes, indexes) in late {
            if let Err(error) = self.context.root().set_attributes(&path, attributes) {
                self.fail_with(&indexes, &error);
            }
        }
        let mut removals = order.removals;
        removals.reverse();
        self.in_chunks(removals, Self::remove);
    }

    fn order(&mut self, jobs: Vec<(Desired, Vec<usize>, bool)>) -> Order {
        let mut order = Order::default();
        for (desired, indexes, changes_more) in jobs {
            match self.job(desired, indexes.clone(), changes_more) {
                Ok(job) => match job.action {
                    Action::Nothing => {}
                    Action::CreateDirectory => order.directories.push(job),
                    Action::PutFile(_) => order.files.push(job),
                    Action::PutLink(_) => order.links.push(job),
                    Action::SetAttributes => order.attributes.push(job),
                    Action::Remove => order.removals.push(job),
                },
                Err(reason) => self.fail(&indexes, reason),
            }
        }
        order
    }

    /// Looks at a path again, and finds out what is to be done there.
    fn job(&self, desired: Desired, indexes: Vec<usize>, changes_more: bool) -> Result<Job, String> {
        let root = self.context.root();
        let stat = match root.stat(&desired.path) {
            // A file or link on the way that is about to become a directory.
            Err(error) if error.kind == crate::fs::FsErrorKind::NotBeneath => None,
            other => other.map_err(|error| super::errors::chain(&error))?,
        };
        let (path, stat) =
            desired::effective_path(root, self.parameters, &desired, stat).map_err(|error| super::errors::chain(&error))?;
        let action = if changes_more {
            action_of(&desired.want, stat.as_ref())
        } else if stat.is_some() {
            Action::SetAttributes
        } else {
            return Err("it was removed meanwhile".to_owned());
        };
        let job = Job { desired, path, stat, action, indexes };
        let replaces = matches!(job.action, Action::PutFile(_) | Action::PutLink(_) | Action::Remove);
        if replaces && job.destroys_directory() && !self.parameters.force {
            return Err("a directory is there: set force => true to replace or remove it".to_owned());
        }
        Ok(job)
    }

    /// Creates directories, and returns attributes that have to wait until they are filled.
    fn create_directories(&mut self, jobs: Vec<Job>) -> Vec<(TreePath, Attributes, Vec<usize>)> {
        let mut late = Vec::new();
        self.in_chunks(jobs, |this, job| {
            let root = this.context.root();
            let attributes = this.identities.of_new(this.parameters, &job.desired, FileKind::Directory);
            if job.stat.is_some() {
                root.remove_file(&job.path)?;
            }
            let mut first = attributes;
            let is_privileged = this.context.options().ownership == Ownership::Managed;
            first.mode = attributes.mode.map(|mode| if is_privileged { mode } else { mode | OWN_WRITE_AND_SEARCH });
            root.create_dir(&job.path, first)?;
            if first != attributes {
                late.push((job.path.clone(), attributes, job.indexes.clone()));
            }
            Ok(())
        });
        // From below: a directory that cannot be searched any more hides what it holds.
        late.reverse();
        late
    }

    fn put_link(&mut self, job: &Job) -> Result<(), FsError> {
        let Action::PutLink(target) = &job.action else { return Ok(()) };
        if job.destroys_directory() {
            self.remove_tree(&job.path)?;
        }
        let attributes = match &job.stat {
            Some(stat) if stat.kind() == FileKind::Link => self.identities.of_replacement(self.parameters, &job.desired, stat),
            _ => self.identities.of_new(self.parameters, &job.desired, FileKind::Link),
        };
        self.context.root().put_link(&job.path, target, Attributes { mode: None, ..attributes }, self.context.stage_journal())
    }

    fn set_attributes(&mut self, job: &Job) -> Result<(), FsError> {
        let Some(stat) = &job.stat else { return Ok(()) };
        let attributes = self.identities.of_existing(self.parameters, &job.desired, stat);
        if attributes == Attributes::default() {
            return Ok(());
        }
        self.context.root().set_attributes(&job.path, attributes)
    }

    fn remove(&mut self, job: &Job) -> Result<(), FsError> {
        if job.destroys_directory() { self.remove_tree(&job.path) } else { self.context.root().remove_file(&job.path) }
    }

    /// Removes a directory with everything in it: what the scan saw there is history.
    pub(super) fn remove_tree(&self, path: &TreePath) -> Result<(), FsError> {
        self.context.mark_scan_stale();
        self.context.root().remove_tree(path)
    }

    /// Does jobs in chunks: what each chunk replaces is kept first, then recorded at once, then the chunk is done.
    fn in_chunks(&mut self, mut jobs: Vec<Job>, mut work: impl FnMut(&mut Self, &Job) -> Result<(), FsError>) {
        while !jobs.is_empty() {
            if !self.goes_on(&jobs) {
                return;
            }
            let rest = jobs.split_off(jobs.len().min(MAX_ENTRIES));
            for job in self.kept(std::mem::replace(&mut jobs, rest)) {
                if let Err(error) = work(self, &job) {
                    self.fail_with(&job.indexes, &error);
                }
            }
        }
    }

    /// Keeps what jobs replace or remove, and returns those of which all was kept.
    fn kept(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let (context, parameters) = (self.context, self.parameters);
        let mut keeper = Keeper::new(context, &parameters.backup);
        let mut kept = Vec::with_capacity(jobs.len());
        for job in jobs {
            let result = match job.action {
                Action::SetAttributes | Action::Nothing => Ok(()),
                _ => keeper.keep(&job.path, job.stat.as_ref()),
            };
            match result {
                Ok(()) => kept.push(job),
                Err(error) => self.fail_with(&job.indexes, &error),
            }
        }
        if let Err(error) = keeper.record() {
            for job in kept.drain(..) {
                self.fail_with(&job.indexes, &error);
            }
        }
        kept
    }
}

fn action_of(want: &Want, stat: Option<&Stat>) -> Action {
    let kind = stat.map(Stat::kind);
    match want {
        Want::Absent if stat.is_none() => Action::Nothing,
        Want::Absent => Action::Remove,
        Want::Present if stat.is_none() => Action::PutFile(None),
        Want::File(None) if kind == Some(FileKind::File) => Action::SetAttributes,
        Want::File(content) => Action::PutFile(content.clone()),
        Want::Directory if kind != Some(FileKind::Directory) => Action::CreateDirectory,
        Want::Link(target) => Action::PutLink(target.clone()),
        Want::Present | Want::Directory | Want::Attributes if stat.is_some() => Action::SetAttributes,
        Want::Present | Want::Directory | Want::Attributes => Action::Nothing,
    }
}

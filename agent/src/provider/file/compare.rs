//! Compares what is with what shall be, and says what would change.

use direct_puppet_transport::protocol::manifest::UNKNOWN_SIZE;
use direct_puppet_transport::protocol::{Digest, Resource, TreePath};
use std::borrow::Cow;

use super::checksum::Checksum;
use super::desired::{self, Desired, Exclusions, Expansion, Want};
use super::diff;
use super::http::{self, Remote, RemoteSources};
use super::identity::{Identities, Identity, wanted_mode};
use super::mode::Mode;
use super::observe::{self, Observer, kind_name};
use super::owner::AccountCache;
use super::parameters::Parameters;
use super::source::Content;
use super::witnesses::Gathered;
use crate::fs::{FileKind, FsError, Stat};
use crate::provider::{Change, Checked, Context, Ownership, ProviderError, Wording};

/// What hides a secret in changes.
const REDACTED: &str = "[redacted]";

/// When a change is made, relative to the others of a resource: what holds others first, removals last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Directory,
    File,
    Link,
    Attributes,
    Removal,
}

/// How many phases there are.
const PHASES: usize = Phase::Removal as usize + 1;

/// A property that is out of sync.
#[derive(Debug)]
struct Difference {
    phase: Phase,
    property: &'static str,
    previous: Cow<'static, str>,
    desired: Cow<'static, str>,
    diff: Option<String>,
    wording: Option<Box<Wording>>,
}

impl Difference {
    fn new(
        phase: Phase,
        property: &'static str,
        previous: impl Into<Cow<'static, str>>,
        desired: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { phase, property, previous: previous.into(), desired: desired.into(), diff: None, wording: None }
    }
}

/// The comparison of one resource.
#[derive(Debug)]
struct Comparison<'a> {
    context: &'a Context,
    resource: &'a Resource,
    parameters: &'a Parameters,
    identities: Identities,
    observer: Observer<'a>,
    /// By phase, each in the order of paths.
    found: [Vec<Change>; PHASES],
    /// The last directory in order that is none yet: nothing can be below it.
    blocked: Option<TreePath>,
    witnesses: Gathered,
    checked: Checked,
}

/// Checks a resource. Blocking.
///
/// # Errors
///
/// When parameters make no sense or the resource's own path cannot be looked at.
pub(super) fn check(
    context: &Context,
    cache: &AccountCache,
    resource: &Resource,
    remote: &RemoteSources,
) -> Result<Checked, ProviderError> {
    let parameters = Parameters::parse(resource)?;
    let exclusions = Exclusions::new(&parameters.path, context.managed());
    let mut expansion = Expansion::new(context.root(), resource, &parameters, &exclusions, remote)?;
    let mut witnesses = Gathered::new(context, &parameters);
    let identities = Identities::load(context, cache, resource, &parameters, &mut witnesses)?;
    let mut comparison = Comparison {
        context,
        resource,
        parameters: &parameters,
        identities,
        observer: Observer::new(context),
        found: Default::default(),
        blocked: None,
        witnesses,
        checked: Checked::default(),
    };
    for (path, reason) in &expansion.failures {
        comparison.fail(path, reason.clone())?;
    }
    if desired::recurses_locally(&parameters) {
        super::extras::add(
            &mut expansion,
            &mut comparison.observer,
            resource,
            &parameters,
            &exclusions,
            &mut comparison.checked,
        )?;
        desired::check_max_files(resource, &parameters, expansion.desired.len())?;
    }
    let entries = expansion.desired.len();
    for entry in expansion.desired {
        if context.cancel().is_cancelled() {
            return Err(ProviderError::Cancelled { resource: resource.reference() });
        }
        comparison.compare(&entry)?;
    }
    comparison.note_left_out();
    Ok(comparison.finish(entries))
}

impl Comparison<'_> {
    fn compare(&mut self, entry: &Desired) -> Result<(), ProviderError> {
        let blocked = self.blocked.as_ref().is_some_and(|above| entry.path.is_within(above));
        let observed = if blocked { Ok((entry.path.clone(), None)) } else { self.observe(entry) };
        if let Ok((_, stat)) = &observed {
            self.witnesses.add_entry(self.context, self.parameters, entry, stat.as_ref());
        }
        let differences = observed.and_then(|(path, stat)| {
            if matches!(entry.want, Want::Directory) && stat.is_none_or(|stat| stat.kind() != FileKind::Directory) && !blocked {
                self.blocked = Some(entry.path.clone());
            }
            self.differences(entry, &path, stat.as_ref())
        });
        match differences {
            Ok(differences) => {
                for difference in differences {
                    self.add(&entry.path, difference);
                }
                Ok(())
            }
            Err(reason) => self.fail(&entry.path, reason),
        }
    }

    fn observe(&self, entry: &Desired) -> Result<(TreePath, Option<Stat>), String> {
        let stat = self.observer.stat(&entry.path).map_err(|error| text(&error))?;
        desired::effective_path(self.context.root(), self.parameters, entry, stat).map_err(|error| text(&error))
    }

    /// Records a failure; one of the resource itself ends the check.
    fn fail(&mut self, path: &TreePath, reason: String) -> Result<(), ProviderError> {
        let reference = desired::reference_at(self.resource, self.parameters, path);
        if *path == self.parameters.path {
            return Err(super::errors::failed(&reference, format!("compare {}", path.absolute()), reason));
        }
        self.checked.failures.push((reference, reason));
        Ok(())
    }

    fn add(&mut self, path: &TreePath, difference: Difference) {
        let change = Change {
            resource: desired::reference_at(self.resource, self.parameters, path),
            property: difference.property.into(),
            previous: difference.previous,
            desired: difference.desired,
            diff: difference.diff,
            redacted: self.parameters.sensitive && difference.property == "content",
            wording: difference.wording,
        };
        let found = &mut self.found[difference.phase as usize];
        if found.len() == found.capacity() {
            // There may be very many: growing by doubling would keep room for twice as many.
            found.reserve_exact((found.len() / 8).max(16));
        }
        found.push(change);
    }

    fn differences(&self, entry: &Desired, path: &TreePath, stat: Option<&Stat>) -> Result<Vec<Difference>, String> {
        let kind = stat.map(Stat::kind);
        let create = |phase, wanted| Ok(vec![Difference::new(phase, "ensure", kind_name(stat), wanted)]);
        match (&entry.want, stat) {
            (Want::Attributes | Want::Absent, None) => Ok(Vec::new()),
            (Want::Absent, Some(_)) => {
                self.may_destroy(path, kind, "remove")?;
                create(Phase::Removal, "absent")
            }
            (Want::File(Some(content)), None) if *path == self.parameters.path => {
                let mut difference = Difference::new(Phase::File, "ensure", kind_name(stat), "file");
                difference.wording = self.defined(content).map_err(|error| text(&error))?;
                Ok(vec![difference])
            }
            (Want::File(Some(content @ Content::Local { .. })), None) => {
                let mut difference = Difference::new(Phase::File, "ensure", kind_name(stat), "file");
                difference.wording = self.defined(content).map_err(|error| text(&error))?;
                Ok(vec![difference])
            }
            (Want::Present | Want::File(_), None) => create(Phase::File, "file"),
            (Want::Directory, None) => create(Phase::Directory, "directory"),
            (Want::Link(_), None) => create(Phase::Link, "link"),
            (Want::Present | Want::Attributes, Some(stat)) => Ok(self.attribute_differences(entry, stat)),
            (Want::File(content), Some(stat)) if kind == Some(FileKind::File) => {
                let mut differences = Vec::new();
                if let Some(content) = content.as_ref().filter(|_| self.parameters.replace) {
                    differences.extend(self.content_difference(content, path, stat).map_err(|error| text(&error))?);
                }
                differences.extend(self.attribute_differences(entry, stat));
                Ok(differences)
            }
            (Want::Directory, Some(stat)) if kind == Some(FileKind::Directory) => Ok(self.attribute_differences(entry, stat)),
            (Want::Link(target), Some(stat)) if kind == Some(FileKind::Link) => self.link_differences(entry, target, stat),
            // Something of another kind is there.
            (_, Some(stat)) if !self.parameters.replace => Ok(self.attribute_differences(entry, stat)),
            (Want::Directory, Some(_)) => create(Phase::Directory, "directory"),
            (Want::File(_), Some(_)) => {
                self.may_destroy(path, kind, "replace")?;
                create(Phase::File, "file")
            }
            (Want::Link(_), Some(_)) => {
                self.may_destroy(path, kind, "replace")?;
                create(Phase::Link, "link")
            }
        }
    }

    fn may_destroy(&self, path: &TreePath, kind: Option<FileKind>, verb: &str) -> Result<(), String> {
        if self.context.holds_own_state(path) {
            return Err("the agent's own state is there: leave it out, or keep it elsewhere with --state-dir".to_owned());
        }
        if kind == Some(FileKind::Directory) && !self.parameters.force {
            return Err(format!("a directory is there: set force => true to {verb} it"));
        }
        Ok(())
    }

    fn link_differences(&self, entry: &Desired, target: &[u8], stat: &Stat) -> Result<Vec<Difference>, String> {
        let mut differences = Vec::new();
        if self.parameters.replace {
            let found = self.context.root().read_link(&entry.path).map_err(|error| text(&error))?;
            if found != target {
                let shown = |target: &[u8]| direct_puppet_transport::protocol::path::escape(target).into_owned();
                differences.push(Difference::new(Phase::Link, "target", shown(&found), shown(target)));
            }
        }
        differences.extend(self.attribute_differences(entry, stat));
        Ok(differences)
    }

    fn attribute_differences(&self, entry: &Desired, stat: &Stat) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut differs = |property, previous: String, desired: String| {
            differences.push(Difference::new(Phase::Attributes, property, previous, desired));
        };
        let identities = &self.identities;
        let (uid, gid) = identities.wanted_ids(self.parameters, entry.source, false);
        if let Some(uid) = uid.filter(|&uid| uid != stat.uid) {
            differs("owner", identities.user_name(stat.uid), identities.user_name(uid));
        } else if let Identity::Unknown(name) = &identities.user {
            differs("owner", identities.user_name(stat.uid), name.clone());
        }
        if let Some(gid) = gid.filter(|&gid| gid != stat.gid) {
            differs("group", identities.group_name(stat.gid), identities.group_name(gid));
        } else if let Identity::Unknown(name) = &identities.group {
            differs("group", identities.group_name(stat.gid), name.clone());
        }
        differences.extend(self.mode_difference(entry, stat));
        differences
    }

    fn mode_difference(&self, entry: &Desired, stat: &Stat) -> Option<Difference> {
        let mode = wanted_mode(self.parameters, entry.source, stat).filter(|&mode| mode != stat.permissions())?;
        let (previous, desired) = (format!("{:04o}", stat.permissions()), format!("{mode:04o}"));
        // What was worked out is told with what it was worked out from.
        let symbolic = self.parameters.mode.as_ref().filter(|mode| matches!(mode, Mode::Symbolic(_)));
        let wording = symbolic.map(|symbolic| {
            let (previous, desired) = (format!("'{previous}'"), format!("'{desired}'"));
            let done = format!("mode changed {previous} to {desired} ({symbolic})");
            Box::new(Wording { previous, desired, done })
        });
        Some(Difference { wording, ..Difference::new(Phase::Attributes, "mode", previous, desired) })
    }

    fn content_difference(&self, content: &Content, path: &TreePath, stat: &Stat) -> Result<Option<Difference>, FsError> {
        if let Content::Local { stat: source, .. } = content {
            let is_newer = match self.parameters.checksum {
                Checksum::ModifiedTime => stat.mtime >= source.mtime,
                Checksum::ChangedTime => stat.ctime >= source.ctime,
                Checksum::Digest | Checksum::None => false,
            };
            if is_newer {
                return Ok(None);
            }
        }
        if let Content::Remote(remote) = content {
            return self.remote_difference(remote, path, stat);
        }
        if self.observer.is_same(path) {
            return Ok(None);
        }
        let (digest, size) = observe::digest_of(self.context.root(), content)?;
        let Some(found) = self.observer.compare(path, stat, &digest, size)? else { return Ok(None) };
        let shown = |digest: &Digest| if self.parameters.sensitive { REDACTED.to_owned() } else { shown(digest) };
        let mut difference = Difference::new(Phase::File, "content", shown(&found), shown(&digest));
        difference.diff = self.diff(content, path, stat, size)?;
        Ok(Some(difference))
    }

    /// Compares a file with what a web server says of its source.
    fn remote_difference(&self, remote: &Remote, path: &TreePath, stat: &Stat) -> Result<Option<Difference>, FsError> {
        let root = self.context.root();
        let found = match remote {
            Remote::Unasked => None,
            Remote::Modified(time) => (stat.mtime.seconds < *time).then(|| http::shown_time(stat.mtime.seconds)),
            Remote::Checksum(value) => {
                let file = root.open_file(path)?;
                value.other(file).map_err(|source| super::errors::io(root, path, "read", source))?
            }
        };
        let hidden = |text: String| if self.parameters.sensitive { REDACTED.to_owned() } else { text };
        Ok(found.map(|found| Difference::new(Phase::File, "content", hidden(found), hidden(remote.shown()))))
    }

    /// Returns how the creation of a file with a content is worded, as Puppet does; that of a secret is not told.
    fn defined(&self, content: &Content) -> Result<Option<Box<Wording>>, FsError> {
        // That of a file here is worth reading it only where a plan is to hold what it was.
        if self.parameters.sensitive || matches!(content, Content::Local { .. }) && !self.context.options().noop {
            return Ok(None);
        }
        let shown = match content {
            Content::Remote(remote) => remote.shown(),
            _ => shown(&observe::digest_of(self.context.root(), content)?.0),
        };
        let done = format!("defined content as '{shown}'");
        Ok(Some(Box::new(Wording { previous: "'absent'".to_owned(), desired: "'file'".to_owned(), done })))
    }

    /// Makes a diff, where one is wanted and the new content is at hand.
    fn diff(&self, content: &Content, path: &TreePath, stat: &Stat, size: u64) -> Result<Option<String>, FsError> {
        use std::io::Read as _;
        let options = self.context.options();
        if !options.show_diff || !self.parameters.show_diff || self.parameters.sensitive {
            return Ok(None);
        }
        let limit = options.max_diff_bytes;
        let name = path.absolute();
        if stat.size > limit || size != UNKNOWN_SIZE && size > limit {
            return Ok(Some(diff::too_long(&name, limit)));
        }
        let root = self.context.root();
        let read = |path: &TreePath| {
            let mut bytes = Vec::new();
            let file = root.open_file(path)?;
            file.take(limit).read_to_end(&mut bytes).map_err(|source| super::errors::io(root, path, "read", source))?;
            Ok::<_, FsError>(bytes)
        };
        let new = match content {
            Content::Inline(inline) => Some(inline.bytes.to_vec()),
            Content::Local { path, .. } => Some(read(path)?),
            Content::Remote(_) => None,
            Content::Stored { digest, .. } => self.context.store().read(digest, limit)?.map(|bytes| bytes.to_vec()),
        };
        let Some(new) = new else { return Ok(None) };
        Ok(Some(diff::unified(&name, &read(path)?, &new)))
    }

    /// Notes what is not managed on this machine.
    fn note_left_out(&mut self) {
        let own = self.resource.reference();
        if self.context.options().ownership == Ownership::Skipped {
            for (parameter, given) in [("owner", &self.parameters.owner), ("group", &self.parameters.group)] {
                if given.is_some() {
                    self.checked.skipped.push((own.clone(), format!("{parameter}: this process cannot give files away")));
                }
            }
        }
        for parameter in &self.parameters.left_out {
            self.checked.skipped.push((own.clone(), format!("{parameter}: contexts of SELinux are not managed")));
        }
    }

    fn finish(mut self, entries: usize) -> Checked {
        // Removals from below, everything else from above.
        self.found[Phase::Removal as usize].reverse();
        for mut changes in self.found {
            let before = std::mem::take(&mut self.checked.changes);
            if before.len() < changes.len() {
                // Mostly all are of one kind: these stay where they are.
                changes.reserve_exact(before.len());
                changes.splice(0..0, before);
                self.checked.changes = changes;
            } else {
                self.checked.changes = before;
                self.checked.changes.extend(changes);
            }
        }
        // A usize fits in 64 bits.
        self.checked.witnesses = self.witnesses.with_listings(self.observer.into_listings());
        self.checked.resources = (entries + self.checked.failures.len()).max(1) as u64;
        self.checked
    }
}

/// Returns a digest as Puppet's messages have it.
fn shown(digest: &Digest) -> String {
    format!("{{{}}}{}", digest.algorithm().name(), digest.to_hex())
}

fn text(error: &FsError) -> String {
    super::errors::chain(error)
}

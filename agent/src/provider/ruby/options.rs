//! Where Ruby and its types are.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{trust, worker};

/// Ruby of the packages `puppet-agent` and `openvox-agent`, which bring their own.
const PACKAGED_RUBY: &str = "/opt/puppetlabs/puppet/bin/ruby";

/// How types that exist only in Ruby are applied.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RubyOptions {
    /// The Ruby that has Puppet's library. Default: the one that packages of Puppet and OpenVox bring, where it is; else `ruby`, looked for where
    /// commands are.
    pub program: Option<PathBuf>,
    /// Directories with `puppet/type/…` and `puppet/provider/…`, in place of Puppet's `libdir`. Default: none, so `libdir` counts.
    pub libraries: Vec<PathBuf>,
    /// Settings of Puppet, as `vardir`, in place of those in `puppet.conf`. Default: none.
    pub settings: Vec<(String, String)>,
    /// How long Ruby may take to load the library, and then to make all resources of a catalog. Default: two minutes each.
    pub start_limit: Duration,
    /// How long one check, one change or one refresh may take; the limit of the run for each resource may be shorter. Default: an hour.
    pub call_limit: Duration,
}

impl Default for RubyOptions {
    fn default() -> Self {
        Self {
            program: None,
            libraries: Vec::new(),
            settings: Vec::new(),
            start_limit: Duration::from_secs(120),
            call_limit: Duration::from_secs(3600),
        }
    }
}

impl RubyOptions {
    /// Looks whether the program and the directories that are named can be used. Blocking.
    ///
    /// # Errors
    ///
    /// When one is not there, or anybody may write to it, to something in it, or to a directory above.
    pub fn check(&self) -> io::Result<()> {
        if let Some(program) = &self.program {
            let place = worker::find(program).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("{}: there is no such program", program.display()))
            })?;
            named(&place, trust::program)?;
        }
        self.libraries.iter().try_for_each(|dir| named(dir, trust::library))
    }

    /// Returns the program, if there is one. Blocking.
    ///
    /// # Errors
    ///
    /// When anybody may write to it, or to a directory that is named, or to what is in one.
    pub(super) fn found(&self) -> io::Result<Option<PathBuf>> {
        let packaged = Path::new(PACKAGED_RUBY);
        let wanted = match &self.program {
            Some(program) => program,
            None if packaged.exists() => packaged,
            None => Path::new("ruby"),
        };
        let Some(place) = worker::find(wanted).filter(|place| place.exists()) else { return Ok(None) };
        named(&place, trust::program)?;
        self.libraries.iter().try_for_each(|dir| named(dir, trust::library))?;
        Ok(Some(place))
    }
}

/// Has an error name the path, where it does not yet.
pub(super) fn named(path: &Path, look: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    look(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied if error.get_ref().is_some() => error,
        kind => io::Error::new(kind, format!("{}: {error}", path.display())),
    })
}

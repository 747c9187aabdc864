//! Writing a version out as files, whole and durable.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use direct_puppet_agent::fs::FsError;
use direct_puppet_transport::protocol::Environment;

use super::VersionName;
use crate::code::Version;
use crate::code::tree::{self, Modes};
use crate::error::ServerError;
use crate::server::Server;

impl Server {
    /// Writes a version out to a directory that is not there yet: whole and durable, or not at all. Killed half way, it leaves a directory
    /// beside, `DIR.` and 16 hexadecimal digits, which hinders nothing and may be removed. Blocking.
    ///
    /// # Errors
    ///
    /// When the version is not there any more, a content is damaged, something is at `dir`, or the disk does not take it.
    pub fn checkout(&self, environment: &Environment, name: VersionName, dir: &Path) -> Result<Version, ServerError> {
        let (version, manifest) = self.find_manifest(environment, name)?;
        self.leftovers.discard(false);
        self.bring_contents(&manifest)?;
        let fail = |attempt, error| ServerError::from(FsError::new(dir, attempt, error));
        if fs::symlink_metadata(dir).is_ok() {
            let error = io::Error::other("something is there: choose a directory that is not there yet");
            return Err(fail("write out a version to", error));
        }
        let mut beside = dir.as_os_str().to_owned();
        // Not the process id: in a container that is the same each time, and what a killed one left would be in the way.
        let random = getrandom::u64().map_err(|error| fail("get random numbers to write out to", io::Error::other(error)))?;
        beside.push(format!(".{random:016x}"));
        let beside = Path::new(&beside);
        DirBuilder::new().mode(0o700).create(beside).map_err(|error| fail("make a directory beside", error))?;
        let written =
            tree::write_out(&self.store, &manifest, beside, Modes::Published).map_err(|failed| *failed.error).and_then(|()| {
                let finish = || -> io::Result<()> {
                    rustix::fs::syncfs(File::open(beside)?)?;
                    fs::rename(beside, dir)?;
                    File::open(dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
                };
                finish().map_err(|error| fail("make durable a version in", error))
            });
        if written.is_err() {
            drop(fs::remove_dir_all(beside));
        }
        written.map(|()| version)
    }
}

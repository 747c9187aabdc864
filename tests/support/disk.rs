//! A disk of a test's own, which is soon full.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::print_stdout, reason = "for tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk; unmounted when dropped.
#[derive(Debug)]
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of 6 MiB; says so and returns nothing where that cannot be done.
    #[must_use]
    pub fn mount(at: &Path) -> Option<Self> {
        Self::mount_with(at, "size=6m,mode=0700")
    }

    /// As [`Self::mount`], with these options of tmpfs(5).
    #[must_use]
    pub fn mount_with(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        if !rustix::process::geteuid().is_root() || !mount(at, options) {
            println!("LEFT OUT: servers whose disk is full need root, to mount a small file system");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    /// Gives it another size.
    pub fn resize(&self, size: &str) {
        assert!(mount(&self.0, &format!("remount,size={size}")), "it stays as small as it is");
    }
}

fn mount(at: &Path, options: &str) -> bool {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
    command.status().is_ok_and(|status| status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["--lazy"]).arg(&self.0).status());
    }
}

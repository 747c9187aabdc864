//! What the figures were made on.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Facts of the machine, for whoever reads the figures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) filesystem: String,
    pub(crate) load_average: String,
    pub(crate) compiler: String,
    pub(crate) date: String,
}

impl Machine {
    /// Looks at the machine; `dir` is where the trees are.
    pub(crate) fn look(dir: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kib = value(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let rustc = Command::new("rustc").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
        let now = OffsetDateTime::now_utc();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: value(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            memory_gib: kib.unwrap_or(0).div_ceil(1 << 20),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: filesystem(&read("/proc/self/mounts"), dir),
            load_average: read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
            compiler: String::from_utf8_lossy(&rustc).trim().to_owned(),
            date: format!("{:04}-{:02}-{:02}", now.year(), u8::from(now.month()), now.day()),
        }
    }

    /// Returns them as a line.
    pub(crate) fn line(&self) -> String {
        let Self { cores, processor, memory_gib, kernel, filesystem, load_average, compiler, date } = self;
        format!(
            "{date}; {cores} cores of {processor}, {memory_gib} GiB, Linux {kernel}, {filesystem}, {compiler}; load average {load_average}"
        )
    }
}

/// Returns the type of the file system that `dir` is on.
fn filesystem(mounts: &str, dir: &Path) -> String {
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        dir.starts_with(point).then(|| (point.len(), kind.to_owned()))
    };
    // Of two on one point the later one is on top.
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_longest_mount_point() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp xfs rw 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(filesystem(mounts, Path::new("/tmp/x")), "xfs");
        assert_eq!(filesystem(mounts, Path::new("/tmpx")), "ext4");
        assert_eq!(filesystem("", Path::new("/")), "unknown");
    }
}

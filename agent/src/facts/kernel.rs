//! What the kernel says of itself: `kernel…`, `filesystems`, `fips_enabled`, `load_averages`, `system_uptime`.

use direct_puppet_transport::protocol::Value;

use super::machine::Kernel;
use super::tree::Tree;
use super::{Facts, count, hash, known, text};

pub(super) fn kernel(kernel: &Kernel) -> Facts {
    let release = kernel.release.as_str();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty());
    let version: Vec<&str> = numbers.by_ref().take(3).collect();
    let major: Vec<&str> = release.split('.').take(2).collect();
    known([
        ("kernel", text(&kernel.name)),
        ("kernelrelease", text(release)),
        ("kernelversion", text(version.join("."))),
        ("kernelmajversion", text(major.join("."))),
    ])
}

/// Reads the format of `/proc/filesystems`: those that need a device.
pub(super) fn filesystems(text: &str) -> Option<Value> {
    let mut names: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("nodev"))
        .map(str::trim)
        .filter(|name| !name.is_empty() && *name != "fuseblk")
        .collect();
    names.sort_unstable();
    (!names.is_empty()).then(|| names.join(",").into())
}

/// A kernel that was built without FIPS has no such file, and it is not enabled.
pub(super) fn fips_enabled(tree: &Tree) -> Option<Value> {
    let is_enabled = tree.line("/proc/sys/crypto/fips_enabled").is_some_and(|line| line == "1");
    tree.exists("/proc/sys").then_some(is_enabled.into())
}

/// Reads the format of `/proc/loadavg`.
pub(super) fn load_averages(text: &str) -> Option<Value> {
    let mut loads = text.split_whitespace().map(|load| load.parse().ok().filter(|load: &f64| load.is_finite()).map(Value::Float));
    let mut load = || loads.next().flatten();
    hash(known([("1m", load()), ("5m", load()), ("15m", load())]))
}

/// Returns since when this machine runs; in a Docker container, since when that runs.
pub(super) fn system_uptime(tree: &Tree, is_docker: bool, ticks_per_second: u64) -> Option<Value> {
    let uptime = tree.read("/proc/uptime")?;
    let seconds: u64 = uptime.split(['.', ' ']).next()?.parse().ok()?;
    let seconds =
        if is_docker { seconds.checked_sub(started(&tree.read("/proc/1/stat")?)? / ticks_per_second)? } else { seconds };
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600, seconds / 60 % 60);
    let words = match days {
        0 => format!("{hours}:{minutes:02} hours"),
        1 => "1 day".to_owned(),
        _ => format!("{days} days"),
    };
    hash(known([("seconds", count(seconds)), ("hours", count(hours)), ("days", count(days)), ("uptime", text(words))]))
}

/// Reads when a process was started, in ticks since the machine was: field 22 of proc_pid_stat(5).
fn started(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses; it may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::testing::{Scratch, json};

    #[test]
    fn versions_of_kernels() {
        for (release, version, major) in [
            ("6.1.0-37-amd64", "6.1.0", "6.1"),
            ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0", "5.14"),
            ("6.9.7-arch1-1", "6.9.7", "6.9"),
            ("4.19", "4.19", "4.19"),
            ("5.15.153.1-microsoft-standard-WSL2", "5.15.153", "5.15"),
        ] {
            let facts = kernel(&Kernel { name: "Linux".to_owned(), release: release.to_owned(), ..Kernel::default() });
            assert_eq!((&facts["kernelversion"], &facts["kernelmajversion"]), (&version.into(), &major.into()), "{release}");
        }
    }

    #[test]
    fn file_systems_with_a_device_sorted() {
        assert_eq!(filesystems("nodev\tproc\n\tvfat\n\text4\n\tfuseblk\nnodev\tnfs\n"), Some("ext4,vfat".into()));
        assert_eq!(filesystems(""), None);
    }

    #[test]
    fn loads() {
        assert_eq!(load_averages("2.94 1.74 0.78 2/200 1234\n"), Some(json(r#"{"1m": 2.94, "5m": 1.74, "15m": 0.78}"#)));
        assert_eq!(load_averages("x"), None);
    }

    #[test]
    fn uptime_of_machines_and_containers() {
        let scratch = Scratch::new(&[
            ("/proc/uptime", "93784.56 1.00\n"),
            ("/proc/1/stat", "1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9000000 1 2\n"),
        ]);
        let machine = system_uptime(&scratch.tree(), false, 100);
        assert_eq!(machine, Some(json(r#"{"seconds": 93784, "hours": 26, "days": 1, "uptime": "1 day"}"#)));
        let container = system_uptime(&scratch.tree(), true, 100);
        assert_eq!(container, Some(json(r#"{"seconds": 3784, "hours": 1, "days": 0, "uptime": "1:03 hours"}"#)));
    }
}

//! The table of processes, as `ps -ef` would show it.

use std::path::Path;

use crate::provider::{Context, ruby_regex};

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Its arguments, or its name in brackets when it has none.
    command: String,
}

/// Reads `/proc`. Blocking.
fn list(proc: &Path) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir(proc) else { return Vec::new() };
    let process = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).trim_end_matches('\0').replace('\0', " ");
        let command = if arguments.is_empty() {
            format!("[{}]", std::fs::read_to_string(entry.path().join("comm")).ok()?.trim_end())
        } else {
            arguments
        };
        Some(Process { pid, command })
    };
    let mut processes: Vec<Process> = entries.filter_map(process).collect();
    processes.sort_by_key(|process| process.pid);
    processes
}

/// Returns the first process whose command matches a Ruby expression; never this one. Blocking.
pub(super) fn find(pattern: &str) -> Result<Option<i32>, String> {
    find_in(&list(Path::new("/proc")), pattern)
}

/// As [`find`], among the processes of one moment for all who ask in it. Blocking.
pub(super) fn find_at_moment(context: &Context, pattern: &str) -> Result<Option<i32>, String> {
    find_in(&context.seen(|| list(Path::new("/proc"))), pattern)
}

fn find_in(processes: &[Process], pattern: &str) -> Result<Option<i32>, String> {
    let regex = ruby_regex::compile(pattern)?;
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    for process in processes.iter().filter(|process| process.pid != own) {
        if regex.is_match(&process.command).map_err(|error| format!("the pattern is too costly: {error}"))? {
            return Ok(Some(process.pid));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_found_by_pattern() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, cmdline, comm) in [("10", "/usr/sbin/web\0-c\0x y\0", "web"), ("9", "", "kworker/0:1"), ("self", "x", "x")] {
            let process = dir.path().join(pid);
            std::fs::create_dir(&process).unwrap();
            std::fs::write(process.join("cmdline"), cmdline).unwrap();
            std::fs::write(process.join("comm"), format!("{comm}\n")).unwrap();
        }
        let processes = list(dir.path());
        for (pattern, pid) in [("sbin/web -c", Some(10)), ("^\\[kworker", Some(9)), ("nothing", None)] {
            assert_eq!(find_in(&processes, pattern).unwrap(), pid, "{pattern}");
        }
        assert!(list(&dir.path().join("none")).is_empty());
    }
}

//! Somebody swaps a directory for a link while files are written below it.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use super::*;

/// How long our writer is attacked.
const ATTACKED: Duration = Duration::from_secs(1);
/// In what time a writer that only looks first must have been caught; it takes milliseconds.
const CAUGHT_WITHIN: Duration = Duration::from_secs(20);

/// Runs `write` again and again, while `dir` and a link to a directory outside are exchanged all the time, until `is_over`
/// says so of the files that came to lie outside and the time; returns how many lie outside and how many writes succeeded.
fn attack(mut write: impl FnMut(&Ground, u64) -> bool, is_over: impl Fn(usize, Duration) -> bool) -> (usize, u64) {
    let ground = Ground::new();
    let outside = ground.dir.path().join("outside");
    // The link comes in the middle of the path: at its end O_NOFOLLOW alone would be enough.
    for dir in [&outside, &ground.at("dir")] {
        std::fs::create_dir_all(dir.join("sub")).unwrap();
    }
    symlink(&outside, ground.at("trap")).unwrap();
    let stop = AtomicBool::new(false);
    let (dir, trap) = (ground.at("dir"), ground.at("trap"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &dir, CWD, &trap, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let start = Instant::now();
        let (mut writes, mut attempts) = (0, 0);
        loop {
            attempts += 1;
            writes += u64::from(write(&ground, attempts));
            let escaped = names(&outside.join("sub")).len();
            if is_over(escaped, start.elapsed()) {
                stop.store(true, Ordering::Relaxed);
                return (escaped, writes);
            }
        }
    })
}

/// The control: looks whether the directory is a link, and does not follow one in the last component.
fn write_naively(ground: &Ground, at: u64) -> bool {
    if std::fs::symlink_metadata(ground.at("dir")).is_ok_and(|found| found.is_symlink()) {
        return false;
    }
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap();
    let path = ground.at("dir/sub").join(format!("f{}", at % 50));
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).custom_flags(flags).open(path);
    file.and_then(|mut file| file.write_all(b"x")).is_ok()
}

#[test]
fn no_file_is_written_through_a_link_that_is_swapped_in() {
    let (escaped, _) = attack(write_naively, |escaped, time| escaped > 0 || time > CAUGHT_WITHIN);
    assert!(escaped > 0, "the attack is too weak to catch even a naive writer: the test says nothing");

    let state = tempfile::tempdir().unwrap();
    let mut journal = None;
    let write = |ground: &Ground, at: u64| {
        let journal = journal.get_or_insert_with(|| StageJournal::open(state.path(), &ground.root).unwrap().0);
        let path = tree(&format!("dir/sub/f{}", at % 50));
        match at % 4 {
            0 => ground.root.create_dir(&tree(&format!("dir/sub/d{at}")), Attributes::default()).is_ok(),
            1 => ground.root.put_link(&path, b"target", Attributes::default(), journal).is_ok(),
            2 => ground.root.set_attributes(&path, Attributes { mode: Some(0o600), ..Attributes::default() }).is_ok(),
            _ => ground.put(journal, &path.to_string(), b"x", None).is_ok(),
        }
    };
    let (escaped, writes) = attack(write, |escaped, time| escaped > 0 || time > ATTACKED);
    assert_eq!(escaped, 0, "written outside");
    assert!(writes > 0, "nothing was written at all: the test says nothing");
}

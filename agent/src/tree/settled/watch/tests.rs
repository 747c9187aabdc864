//! What a watch says against what a look at everything says.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::SystemTime;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::SettledRecord;
use super::super::tests::{Ground, unchanged};
use super::*;
use crate::tree::Seen;

/// A record of some directories, and a watch over it.
struct Watched {
    ground: Ground,
    record: SettledRecord,
    watch: Watch,
}

const PATHS: [&str; 12] = [
    "whole/a",
    "whole/b",
    "whole/deep/er/c",
    "attributes/a",
    "attributes/b",
    "attributes/deep/c",
    "listed/a",
    "listed/empty",
    "link",
    "gone",
    "no/such/dir",
    "whole",
];

impl Watched {
    /// All kinds of entries, and a file with a second name.
    fn new() -> Self {
        let mut ground = Ground::new();
        for path in
            ["whole/a", "whole/b", "whole/deep/er/c", "attributes/a", "attributes/b", "attributes/deep/c", "listed/a", "present"]
        {
            ground.write(path);
        }
        let root = ground.root();
        fs::create_dir(root.join("listed/empty")).unwrap();
        symlink("whole", root.join("link")).unwrap();
        fs::create_dir(root.join("elsewhere")).unwrap();
        fs::hard_link(root.join("whole/b"), root.join("elsewhere/b")).unwrap();
        fs::hard_link(root.join("attributes/b"), root.join("elsewhere/attributes-b")).unwrap();
        for path in ["whole/a", "whole/b", "whole/deep/er/c", "listed", "listed/a", "listed/empty", "link"] {
            ground.sees(path, unchanged);
        }
        for path in ["attributes", "attributes/a", "attributes/b", "attributes/deep/c", "whole"] {
            ground.sees(path, Seen::attributes);
        }
        ground.sees("present", |_| Seen::Present);
        for path in ["gone", "no/such/dir", "attributes/gone"] {
            ground.sees(path, unchanged);
        }
        ground.settle_later();
        let record = ground.load().unwrap();
        let watch = begin(&record, &root).unwrap();
        Self { ground, record, watch }
    }

    fn look(&self) -> Noted {
        self.record.look(&self.watch, &self.ground.root())
    }

    fn all_holds(&self) -> bool {
        self.record.holds(&self.ground.root(), 1, &AtomicBool::new(false), &AtomicU64::new(0))
    }
}

fn begin(record: &SettledRecord, root: &Path) -> Result<Watch, WatchError> {
    record.holds_and_is_watched(root, 1, &AtomicBool::new(false), &AtomicU64::new(0)).expect("all is as it was")
}

/// What can be done to a path; errors do not matter, for paths come and go.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Write,
    Append,
    Truncate,
    Mode(u32),
    Times,
    Remove,
    MakeDir,
    Make,
    Rename(usize),
    Exchange(usize),
    AwayAndBack,
    Symlink,
    OpenToWrite,
    WriteElsewhere,
}

impl Deed {
    fn do_to(self, root: &Path, path: &str) -> io::Result<()> {
        let at = root.join(path);
        match self {
            Self::Write => fs::write(at, "other"),
            Self::Append => File::options().append(true).open(at)?.write_all(b"more"),
            Self::Truncate => File::options().write(true).open(at)?.set_len(3),
            Self::Mode(mode) => fs::set_permissions(at, fs::Permissions::from_mode(mode)),
            Self::Times => File::open(at)?.set_modified(SystemTime::UNIX_EPOCH),
            Self::Remove if at.is_dir() && !at.is_symlink() => fs::remove_dir_all(at),
            Self::Remove => fs::remove_file(at),
            Self::MakeDir => fs::create_dir_all(at),
            Self::Make => fs::write(at.with_file_name("new"), "new"),
            Self::Rename(other) => fs::rename(at, root.join(PATHS[other])),
            Self::Exchange(other) => {
                let (one, other) = (at, root.join(PATHS[other]));
                Ok(rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &other, rustix::fs::RenameFlags::EXCHANGE)?)
            }
            Self::AwayAndBack => {
                fs::rename(&at, root.join("elsewhere/away"))?;
                fs::rename(root.join("elsewhere/away"), at)
            }
            Self::Symlink => {
                fs::remove_file(&at)?;
                symlink("elsewhere", at)
            }
            // As the end of a mapping shows.
            Self::OpenToWrite => File::options().write(true).open(at).map(drop),
            Self::WriteElsewhere => fs::write(root.join("elsewhere/b"), "through another name"),
        }
    }
}

fn deed() -> impl Strategy<Value = Deed> {
    let often = prop_oneof![Just(Deed::Write), Just(Deed::Append), Just(Deed::Make), Just(Deed::OpenToWrite)];
    let others = prop_oneof![
        Just(Deed::Truncate),
        prop_oneof![Just(0o644), Just(0o600), Just(0o755)].prop_map(Deed::Mode),
        Just(Deed::Times),
        Just(Deed::Remove),
        Just(Deed::MakeDir),
        (0..PATHS.len()).prop_map(Deed::Rename),
        (0..PATHS.len()).prop_map(Deed::Exchange),
        Just(Deed::AwayAndBack),
        Just(Deed::Symlink),
        Just(Deed::WriteElsewhere),
    ];
    prop_oneof![often, others]
}

/// How often each answer came.
#[derive(Default)]
struct Answers {
    holds: Cell<u32>,
    differs: Cell<u32>,
    unknown: Cell<u32>,
}

#[test]
fn what_is_noted_is_never_other_than_what_a_look_at_everything_finds() {
    let answers = Answers::default();
    let add = |count: &Cell<u32>| count.set(count.get() + 1);
    let mut runner = TestRunner::new(Config { cases: 150, ..Config::default() });
    let deeds = proptest::collection::vec((deed(), 0..PATHS.len()), 1..12);
    let tried = runner.run(&deeds, |deeds| {
        let mut watched = Watched::new();
        prop_assert_eq!(watched.look(), Noted::Holds { looked_at: 2 }, "the two that have another name");
        for (deed, path) in deeds {
            // What cannot be done is not done.
            drop(deed.do_to(&watched.ground.root(), PATHS[path]));
            let (noted, holds) = (watched.look(), watched.all_holds());
            match noted {
                Noted::Holds { .. } => {
                    prop_assert!(holds, "{:?} of {} was not noted", deed, PATHS[path]);
                    add(&answers.holds);
                }
                Noted::Differs => {
                    prop_assert!(!holds, "{:?} of {}", deed, PATHS[path]);
                    add(&answers.differs);
                }
                Noted::Unknown => add(&answers.unknown),
            }
            if !holds {
                break;
            }
            if noted == Noted::Unknown {
                watched.watch = begin(&watched.record, &watched.ground.root()).unwrap();
            }
        }
        Ok(())
    });
    tried.unwrap();
    // Some hundred, and the rarest some twenty times: how often is chance, that there was none is not.
    for count in [&answers.holds, &answers.differs, &answers.unknown] {
        assert_ne!(count.get(), 0, "{} {} {}", answers.holds.get(), answers.differs.get(), answers.unknown.get());
    }
}

#[test]
fn only_what_was_touched_is_looked_at() {
    let watched = Watched::new();
    let root = watched.ground.root();
    assert_eq!(watched.look(), Noted::Holds { looked_at: 2 });
    // What counts of it are its attributes; what is no entry is looked at by nobody, but how many names it has.
    fs::write(root.join("attributes/a"), "other").unwrap();
    fs::write(root.join("attributes/nobody's"), "").unwrap();
    // Only what comes and goes is told of a directory that paths only go through.
    fs::write(root.join("elsewhere/noise"), "").unwrap();
    // The end of a mapping tells of what was written through it.
    drop(File::options().write(true).open(root.join("whole/deep/er/c")).unwrap());
    assert_eq!(watched.look(), Noted::Holds { looked_at: 5 });
    assert_eq!(watched.look(), Noted::Holds { looked_at: 2 });
    fs::write(root.join("listed/empty/file"), "").unwrap();
    assert_eq!(watched.look(), Noted::Differs);
}

#[test]
fn a_link_that_is_made_where_nobody_watches_is_found_by_a_look_at_everything_only() {
    let watched = Watched::new();
    let root = watched.ground.root();
    fs::hard_link(root.join("whole/a"), root.join("elsewhere/a")).unwrap();
    fs::write(root.join("elsewhere/a"), "through another name").unwrap();
    assert_eq!(watched.look(), Noted::Holds { looked_at: 2 });
    assert!(!watched.all_holds());
}

#[test]
fn a_link_that_is_made_beside_an_entry_is_seen() {
    for is_removed in [false, true] {
        let watched = Watched::new();
        let root = watched.ground.root();
        fs::hard_link(root.join("whole/a"), root.join("whole/copy")).unwrap();
        fs::write(root.join("whole/copy"), "through another name").unwrap();
        if is_removed {
            fs::remove_file(root.join("whole/copy")).unwrap();
        }
        assert_eq!(watched.look(), Noted::Unknown, "{is_removed}");
        assert!(!watched.all_holds());
    }
}

#[test]
fn more_than_the_kernel_keeps_is_as_good_as_nothing() {
    let watched = Watched::new();
    let root = watched.ground.root();
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // Two notes each, no two alike in a row.
    for number in 0..=limit / 2 {
        let path = root.join(["attributes/a", "attributes/deep/c"][number % 2]);
        drop(File::options().append(true).open(path).unwrap().write_all(b"x"));
    }
    assert_eq!(watched.look(), Noted::Unknown);
    assert!(watched.all_holds());
}

#[test]
fn another_root_at_the_same_place_is_seen() {
    let watched = Watched::new();
    let root = watched.ground.root();
    fs::rename(&root, root.with_file_name("moved")).unwrap();
    symlink("moved", &root).unwrap();
    // The same directory by another name, whose name is not what counts; but its move was noted.
    assert_eq!(watched.look(), Noted::Unknown);
    fs::remove_file(&root).unwrap();
    fs::create_dir(&root).unwrap();
    assert_eq!(watched.look(), Noted::Unknown);
}

#[test]
fn what_cannot_be_watched_is_said() {
    let ground = {
        let mut ground = Ground::new();
        for number in 0..=MOST_ALWAYS {
            let path = format!("d/{number}");
            ground.write(&path);
            fs::hard_link(ground.root().join(&path), ground.root().join(format!("{number}"))).unwrap();
            ground.sees(&path, unchanged);
        }
        ground.settle_later();
        ground
    };
    let error = begin(&ground.load().unwrap(), &ground.root()).unwrap_err();
    assert!(matches!(error, WatchError::TooManyAlways(1001)), "{error}");
    let mut ground = Ground::new();
    ground.sees("version", unchanged);
    ground.settle_later();
    // Files of proc come about when they are read.
    let error = Watch::begin(ground.load().unwrap().encoded(), Path::new("/proc")).unwrap_err();
    assert!(error.to_string().starts_with(". lies on a file system of a type (0x9fa0)"), "{error}");
}

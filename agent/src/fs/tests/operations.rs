use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::*;

/// The user and group `nobody` of most systems; only the number matters.
const NOBODY: u32 = 65_534;

fn only_mode(mode: u32) -> Attributes {
    Attributes { mode: Some(mode), ..Attributes::default() }
}

#[test]
fn a_link_on_the_way_is_refused_by_every_operation() {
    let ground = Ground::new();
    let outside = ground.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "x").unwrap();
    symlink(&outside, ground.at("link")).unwrap();
    let (journal, _) = ground.journal();
    let (root, path) = (&ground.root, tree("link/file"));
    let refused = [
        root.stat(&path).map(drop),
        root.open_file(&path).map(drop),
        root.read_link(&path).map(drop),
        root.list(&tree("link")).map(drop),
        root.create_dir(&tree("link/new"), only_mode(0o755)),
        root.set_attributes(&path, only_mode(0o777)),
        root.put_link(&path, b"x", Attributes::default(), &journal),
        root.remove_file(&path),
        root.remove_dir(&path),
        root.remove_tree(&path),
        root.remove_tree(&tree("link")),
        ground.put(&journal, "link/file", b"new", None).map(drop),
    ];
    for (at, result) in refused.into_iter().enumerate() {
        let error = result.expect_err(&format!("operation {at}"));
        assert_eq!(error.kind, FsErrorKind::NotBeneath, "operation {at}: {error}");
        assert!(error.hint.is_some(), "operation {at} says what to do");
    }
    assert_eq!(std::fs::read_to_string(outside.join("file")).unwrap(), "x");
    assert_eq!(names(&outside), ["file"]);
}

#[test]
fn only_regular_files_are_opened_and_a_fifo_never_blocks() {
    let ground = Ground::new();
    mknodat(CWD, ground.at("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    std::os::unix::net::UnixListener::bind(ground.at("socket")).unwrap();
    std::fs::create_dir(ground.at("dir")).unwrap();
    symlink("/dev/null", ground.at("link")).unwrap();
    for (path, kind) in [
        ("fifo", FsErrorKind::WrongKind),
        ("dir", FsErrorKind::WrongKind),
        ("link", FsErrorKind::NotBeneath),
        ("none", FsErrorKind::NotFound),
    ] {
        assert_eq!(ground.root.open_file(&tree(path)).unwrap_err().kind, kind, "{path}");
    }
    assert!(ground.root.open_file(&tree("socket")).is_err());
    assert_eq!(ground.root.stat(&tree("none")).unwrap(), None);
    assert_eq!(ground.root.stat(&tree("none/below")).unwrap(), None);
    assert_eq!(ground.root.stat(&tree("fifo")).unwrap().unwrap().kind(), FileKind::Other);
    // To set attributes of a fifo is possible, and does not wait for a writer either.
    ground.root.set_attributes(&tree("fifo"), only_mode(0o640)).unwrap();
    assert_eq!(mode_of(&ground.at("fifo")), 0o640);
}

#[test]
fn odd_names_are_names() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let longest = vec![b'n'; 255];
    for name in [&b"new\nline"[..], b"\xff\xfe", b"-rf", b" ", b"%41", b"\x1b[31m", b".direct-puppet-x", &longest] {
        let path = TreePath::root().child(name).unwrap();
        let mut stage = Stage::new(&ground.root, &journal);
        stage.add(&path, ContentSource::Bytes("x".into()), Digest::of(b"x"), Attributes::default()).unwrap();
        stage.commit().pop().unwrap().1.unwrap();
        assert_eq!(std::fs::read(ground.at("").join(std::ffi::OsStr::from_bytes(name))).unwrap(), b"x");
    }
    let listed = ground.root.list(&TreePath::root()).unwrap();
    assert_eq!(listed.len(), 8);
    assert!(listed.is_sorted_by(|a, b| a.name < b.name));
}

#[test]
fn a_directory_gets_its_attributes_whatever_the_umask() {
    // The umask belongs to the whole process, so the test below is run again in one of its own.
    let name = "fs::tests::operations::makes_a_directory_and_a_file";
    for umask in ["0", "0777"] {
        if umask == "0777" && !is_root("umask 0777") {
            continue;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "umask \"$0\" && exec \"$@\"", umask]).arg(std::env::current_exe().unwrap());
        let output = command.args(["--exact", name]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "umask {umask}: {text}");
    }
}

#[test]
fn makes_a_directory_and_a_file() {
    let ground = Ground::new();
    set_mode(ground.dir.path(), 0o700);
    for dir in ["root", "state"] {
        set_mode(&ground.dir.path().join(dir), 0o755);
    }
    let (journal, _) = ground.journal();
    for mode in [0o755, 0o2775, 0o1777, 0o700] {
        let name = format!("d{mode:o}");
        ground.root.create_dir(&tree(&name), only_mode(mode)).unwrap();
        assert_eq!(mode_of(&ground.at(&name)), mode, "{name}");
    }
    ground.put(&journal, "file", b"x", Some(0o4755)).unwrap();
    assert_eq!(mode_of(&ground.at("file")), 0o4755);
    ground.put(&journal, "plain", b"x", None).unwrap();
    assert_eq!(mode_of(&ground.at("plain")), 0o644);
}

#[test]
fn a_directory_that_could_not_be_finished_is_not_left_behind() {
    let ground = Ground::new();
    // This user id means "leave it" to the kernel, which refuses it for a file's owner in user namespaces and as non-root.
    let attributes = Attributes { mode: Some(0o755), uid: Some(1), gid: Some(1) };
    if rustix::process::geteuid().is_root() {
        println!("left out, it needs a user other than root: chown that is refused");
        return;
    }
    assert_eq!(ground.root.create_dir(&tree("d"), attributes).unwrap_err().kind, FsErrorKind::Denied);
    assert!(!ground.at("d").exists());
}

#[test]
fn setuid_outlives_the_change_of_owner() {
    if !is_root("setuid and owner") {
        return;
    }
    let ground = Ground::new();
    std::fs::write(ground.at("file"), "x").unwrap();
    let attributes = Attributes { mode: Some(0o4755), uid: Some(NOBODY), gid: Some(NOBODY) };
    ground.root.set_attributes(&tree("file"), attributes).unwrap();
    let found = std::fs::metadata(ground.at("file")).unwrap();
    assert_eq!((mode_of(&ground.at("file")), found.uid(), found.gid()), (0o4755, NOBODY, NOBODY));
}

#[test]
fn of_a_link_only_the_owner_changes_and_never_its_target() {
    if !is_root("owner of a link") {
        return;
    }
    let ground = Ground::new();
    std::fs::write(ground.at("target"), "x").unwrap();
    set_mode(&ground.at("target"), 0o600);
    symlink("target", ground.at("link")).unwrap();
    let attributes = Attributes { mode: Some(0o777), uid: Some(NOBODY), gid: None };
    ground.root.set_attributes(&tree("link"), attributes).unwrap();
    assert_eq!(std::fs::symlink_metadata(ground.at("link")).unwrap().uid(), NOBODY);
    assert_eq!((mode_of(&ground.at("target")), std::fs::metadata(ground.at("target")).unwrap().uid()), (0o600, 0));
}

#[test]
fn a_second_name_in_a_directory_of_others_is_taken_for_a_trap() {
    let ground = Ground::new();
    std::fs::write(ground.at("precious"), "x").unwrap();
    set_mode(&ground.at("precious"), 0o600);
    std::fs::create_dir(ground.at("shared")).unwrap();
    std::fs::hard_link(ground.at("precious"), ground.at("shared/file")).unwrap();
    let change = || ground.root.set_attributes(&tree("shared/file"), only_mode(0o666));
    for mode in [0o777, 0o1777, 0o775] {
        set_mode(&ground.at("shared"), mode);
        assert_eq!(change().unwrap_err().kind, FsErrorKind::Denied, "{mode:o}");
    }
    set_mode(&ground.at("shared"), 0o755);
    if is_root("a directory that belongs to somebody else") {
        chown(ground.at("shared"), Some(NOBODY), None).unwrap();
        assert_eq!(change().unwrap_err().kind, FsErrorKind::Denied, "its owner can put links there");
        chown(ground.at("shared"), Some(0), None).unwrap();
    }
    assert_eq!(mode_of(&ground.at("precious")), 0o600);
    change().unwrap();
    assert_eq!(mode_of(&ground.at("precious")), 0o666);
}

#[test]
fn attributes_of_what_may_not_be_read_can_be_set() {
    let ground = Ground::new();
    std::fs::write(ground.at("file"), "x").unwrap();
    std::fs::create_dir(ground.at("dir")).unwrap();
    for path in ["file", "dir"] {
        set_mode(&ground.at(path), 0);
        ground.root.set_attributes(&tree(path), only_mode(0o700)).unwrap();
        assert_eq!(mode_of(&ground.at(path)), 0o700, "{path}");
    }
}

#[test]
fn a_link_replaces_a_file_or_link_but_never_a_directory() {
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let put = |path: &str, target: &str| ground.root.put_link(&tree(path), target.as_bytes(), Attributes::default(), &journal);
    std::fs::write(ground.at("file"), "x").unwrap();
    std::fs::create_dir(ground.at("dir")).unwrap();
    for (path, target) in [("new", "a"), ("new", "b"), ("file", "c"), ("file", "\u{e9} x")] {
        put(path, target).unwrap();
        assert_eq!(ground.root.read_link(&tree(path)).unwrap(), target.as_bytes());
    }
    assert_eq!(put("dir", "x").unwrap_err().kind, FsErrorKind::WrongKind);
    assert_eq!(names(&ground.at("")), ["dir", "file", "new"], "nothing temporary stays");
}

#[test]
fn a_tree_ten_thousand_deep_is_removed_with_few_descriptors() {
    let ground = Ground::new();
    std::fs::create_dir(ground.at("deep")).unwrap();
    let open = |at: &Path| std::fs::File::open(at).unwrap();
    let mut here: std::os::fd::OwnedFd = open(&ground.at("deep")).into();
    for _ in 0..10_000 {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        here = rustix::fs::openat(&here, "d", flags, Mode::empty()).unwrap();
    }
    rustix::fs::symlinkat("/", &here, "link").unwrap();
    drop(here);
    ground.root.remove_tree(&tree("deep")).unwrap();
    assert_eq!(names(&ground.at("")), Vec::<String>::new());
}

#[test]
fn removing_a_tree_follows_no_link() {
    let ground = Ground::new();
    let outside = ground.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "x").unwrap();
    std::fs::create_dir_all(ground.at("tree/sub")).unwrap();
    symlink(&outside, ground.at("tree/sub/link")).unwrap();
    ground.root.remove_tree(&tree("tree")).unwrap();
    assert!(!ground.at("tree").exists());
    assert_eq!(names(&outside), ["kept"]);
}

/// A bind mount for the time of a test.
struct Bound(PathBuf);

impl Bound {
    fn new(from: &Path, to: &Path) -> Option<Self> {
        let done = Command::new("mount").arg("--bind").args([from, to]).status().is_ok_and(|status| status.success());
        if !done {
            println!("left out, it needs to mount: bind mounts");
        }
        done.then(|| Self(to.to_owned()))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn removing_a_tree_never_crosses_a_mount_of_the_same_file_system() {
    if !is_root("bind mounts") {
        return;
    }
    let ground = Ground::new();
    let outside = ground.dir.path().join("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    std::fs::write(outside.join("sub/kept"), "x").unwrap();
    std::fs::create_dir_all(ground.at("tree/mounted")).unwrap();
    let Some(bound) = Bound::new(&outside, &ground.at("tree/mounted")) else { return };
    for path in ["tree", "tree/mounted"] {
        assert!(ground.root.remove_tree(&tree(path)).is_err(), "{path}");
        assert_eq!(std::fs::read_to_string(outside.join("sub/kept")).unwrap(), "x", "{path}");
    }
    drop(bound);
    ground.root.remove_tree(&tree("tree")).unwrap();
}

#[test]
fn a_store_content_is_put_in_place_across_a_mount_of_the_same_file_system() {
    if !is_root("bind mounts") {
        return;
    }
    let ground = Ground::new();
    let (journal, _) = ground.journal();
    let store = crate::store::Store::ensure(&ground.dir.path().join("store")).unwrap();
    let elsewhere = ground.dir.path().join("elsewhere");
    for dir in [&elsewhere, &ground.at("mounted")] {
        std::fs::create_dir(dir).unwrap();
    }
    let Some(_bound) = Bound::new(&elsewhere, &ground.at("mounted")) else { return };
    let digest = store.put_bytes(b"content").unwrap().digest;
    let taken = store.take(&digest).unwrap().unwrap();
    let mut stage = Stage::new(&ground.root, &journal);
    stage.add(&tree("mounted/file"), ContentSource::Take(taken), digest, only_mode(0o640)).unwrap();
    stage.commit().pop().unwrap().1.unwrap();
    assert_eq!(std::fs::read_to_string(elsewhere.join("file")).unwrap(), "content");
    assert_eq!(mode_of(&elsewhere.join("file")), 0o640);
    assert_eq!(names(&elsewhere), ["file"]);
    assert!(!store.has(&digest), "it was used for the last time");
}

#[test]
fn an_immutable_file_is_named_with_what_to_do() {
    if !is_root("chattr +i") {
        return;
    }
    let ground = Ground::new();
    std::fs::write(ground.at("file"), "old").unwrap();
    let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(ground.at("file")).status().is_ok_and(|s| s.success());
    if !chattr("+i") {
        println!("left out, this file system knows no immutable files");
        return;
    }
    let (journal, _) = ground.journal();
    let results = [
        ground.put(&journal, "file", b"new", None).map(drop),
        ground.root.set_attributes(&tree("file"), only_mode(0o600)),
        ground.root.remove_file(&tree("file")),
    ];
    assert!(chattr("-i"));
    for result in results {
        let error = result.unwrap_err();
        assert_eq!(error.kind, FsErrorKind::Denied);
        assert!(error.hint.unwrap().contains("chattr -i"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(ground.at("file")).unwrap(), "old");
    assert_eq!(names(&ground.at("")), ["file"]);
}

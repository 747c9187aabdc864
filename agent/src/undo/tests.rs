use direct_puppet_transport::protocol::{Digest, TreePath};

use super::{Left, Previous, UndoEntry, UndoLog, UndoOptions, UndoOutcome, undo};
use crate::store::Store;

struct World {
    dir: tempfile::TempDir,
    log: UndoLog,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        crate::fs::ensure_private_dir(&dir.path().join("state")).unwrap();
        let log = UndoLog::new(&dir.path().join("state"), "run1");
        Self { dir, log }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap()
    }

    fn stored(&self, content: &str) -> Previous {
        let digest = Store::ensure(&self.dir.path().join("state/store")).unwrap().put_bytes(content.as_bytes()).unwrap().digest;
        Previous::File { digest, mode: 0o644, uid: own().0, gid: own().1 }
    }

    fn record(&self, path: &str, previous: Previous, left: Left) {
        let path: TreePath = path.parse().unwrap();
        self.log.record(&[UndoEntry { path, previous, left }]).unwrap();
    }

    fn undo(&self, force: bool) -> UndoOutcome {
        undo(&self.dir.path().join("state"), &self.dir.path().join("root"), UndoOptions::force(force)).unwrap()
    }
}

fn own() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn directory() -> Previous {
    Previous::Directory { mode: 0o755, uid: own().0, gid: own().1 }
}

fn left(content: &str) -> Left {
    Left::File { digest: Digest::of(content.as_bytes()) }
}

#[test]
fn a_removed_tree_comes_back_though_it_was_recorded_from_above() {
    let world = World::new();
    world.record("gone", directory(), Left::Absent);
    world.record("gone/sub", directory(), Left::Absent);
    world.record("gone/sub/file", world.stored("deep"), Left::Absent);
    world.record("gone/link", Previous::Link { target: "sub".to_owned() }, Left::Absent);
    let outcome = world.undo(false);
    assert_eq!((outcome.failed, outcome.restored.len(), outcome.run.as_str()), (vec![], 4, "run1"));
    assert_eq!((world.text("gone/sub/file"), world.text("gone/link/file")), ("deep".to_owned(), "deep".to_owned()));
}

#[test]
fn kinds_change_back() {
    let world = World::new();
    // A directory with a file became a file; a file and a link became directories with a file each.
    std::fs::write(world.at("was-dir"), "new").unwrap();
    world.record("was-dir", directory(), left("new"));
    world.record("was-dir/old", world.stored("old"), Left::Absent);
    for name in ["was-file", "was-link"] {
        std::fs::create_dir(world.at(name)).unwrap();
        std::fs::write(world.at(name).join("inside"), "new").unwrap();
        let previous =
            if name == "was-file" { world.stored("the file") } else { Previous::Link { target: "was-file".to_owned() } };
        world.record(name, previous, Left::Directory);
        world.record(&format!("{name}/inside"), Previous::Absent, left("new"));
    }
    assert_eq!(world.undo(false).failed, []);
    assert_eq!(
        (world.text("was-dir/old"), world.text("was-file"), world.text("was-link")),
        ("old".into(), "the file".into(), "the file".into())
    );
    assert!(world.at("was-link").is_symlink());
}

#[test]
fn what_the_run_did_not_make_is_left_alone_unless_forced_and_then_kept() {
    let world = World::new();
    for name in ["created", "changed", "never-done"] {
        std::fs::write(world.at(name), "precious").unwrap();
    }
    std::fs::create_dir(world.at("dir")).unwrap();
    std::fs::write(world.at("dir/other"), "others'").unwrap();
    world.record("created", Previous::Absent, left("new"));
    world.record("changed", world.stored("before"), left("new"));
    world.record("never-done", world.stored("precious"), left("new"));
    world.record("dir", Previous::Absent, Left::Directory);
    let outcome = world.undo(false);
    let refused: Vec<&str> = outcome.failed.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!((refused, outcome.restored), (vec!["/dir", "/created", "/changed"], vec![]));
    assert!(outcome.failed.iter().filter(|(path, _)| path != "/dir").all(|(_, reason)| reason.contains("--force")));
    assert_eq!((world.text("created"), world.text("changed")), ("precious".into(), "precious".into()));
    let forced = world.undo(true);
    assert_eq!(forced.kept, ["/created", "/changed"].map(|path| (path.to_owned(), Digest::of(b"precious"))));
    assert_eq!(
        (world.at("created").exists(), world.text("changed"), world.text("dir/other")),
        (false, "before".into(), "others'".into())
    );
    // And the store keeps them though no log names them.
    let kept = super::prune(&world.dir.path().join("state"), 0).unwrap();
    assert!(kept.contains(&Digest::of(b"precious")));
}

#[test]
fn it_goes_on_where_it_was_cut_off() {
    let world = World::new();
    std::fs::write(world.at("a"), "before").unwrap();
    std::fs::write(world.at("b"), "new").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["a", "b"] {
        std::fs::set_permissions(world.at(name), std::fs::Permissions::from_mode(0o644)).unwrap();
        world.record(name, world.stored("before"), left("new"));
    }
    // The way was cleared, the link was not put there yet.
    world.record("c", Previous::Link { target: "a".to_owned() }, Left::Directory);
    let outcome = world.undo(false);
    assert_eq!((outcome.restored, outcome.failed), (vec!["/b".to_owned(), "/c".to_owned()], vec![]));
    assert!(undo(&world.dir.path().join("state"), &world.dir.path().join("root"), UndoOptions::default()).is_err());
}

#[test]
fn permissions_are_put_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    std::fs::write(world.at("file"), "same").unwrap();
    std::fs::set_permissions(world.at("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let previous = Previous::Attributes { mode: 0o640, uid: own().0, gid: own().1 };
    world.record("file", previous, Left::Attributes { mode: Some(0o600), uid: None, gid: None });
    assert_eq!(world.undo(false).restored, ["/file"]);
    assert_eq!(std::fs::metadata(world.at("file")).unwrap().permissions().mode() & 0o7777, 0o640);
}

#[test]
fn a_log_that_cannot_be_read_is_said_so() {
    let world = World::new();
    world.record("a", Previous::Absent, left("new"));
    let path = world.log.path();
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, format!("{{\"path\":\"old format\"}}\n{text}")).unwrap();
    let error = undo(&world.dir.path().join("state"), &world.dir.path().join("root"), UndoOptions::default()).unwrap_err();
    assert!(crate::apply::error_chain(&error).contains("undo log"), "{error:?}");
    // A last line that was cut off is none.
    std::fs::write(path, format!("{text}{{\"path\":\"cut o")).unwrap();
    assert_eq!(world.undo(false).failed, []);
}

//! Checkouts: what is not compiled any more becomes what is next, and is then as if it were written anew.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use proptest::prelude::*;

use super::super::checkout::Checkout;
use super::*;

/// What may be in the trees: directories come before what is in them.
const PATHS: [&str; 9] = ["a", "a/x", "a/x/z", "a/y", "b", "b/x", "b/x/z", "c", "d"];

/// Returns code with one of six kinds of entry, or none, at each path, as far as there is a directory for it.
fn code(world: &World, kinds: &[u8]) -> Arc<Code> {
    let mut entries: Vec<ManifestEntry> = Vec::new();
    for (path, kind) in PATHS.iter().zip(kinds) {
        let path: TreePath = path.parse().unwrap();
        let is_dir = |parent: TreePath| {
            parent.is_root() || entries.iter().any(|entry| entry.path == parent && entry.kind == EntryKind::Directory)
        };
        let content = format!("{}\n", kind % 2).repeat(100);
        let (mode, kind) = match kind {
            1 | 2 => (if *kind == 1 { 0o755 } else { 0o700 }, EntryKind::Directory),
            3 | 4 => (0o644, EntryKind::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 }),
            5 => (0o755, EntryKind::File { digest: Digest::of(content.as_bytes()), size: content.len() as u64 }),
            6 => (0, EntryKind::Link { target: b"c".to_vec() }),
            7 => (0, EntryKind::Link { target: b"/absolute".to_vec() }),
            _ => continue,
        };
        if is_dir(path.parent().unwrap_or_default()) {
            world.store.put_bytes(content.as_bytes()).unwrap();
            entries.push(ManifestEntry { path, mode, kind });
        }
    }
    world.code_of(Manifest::new(entries).unwrap())
}

fn make(world: &World, code: &Code, retired: Option<Checkout>) -> Checkout {
    Checkout::make(&world.dir.path().join("work"), code, retired).unwrap()
}

/// Returns everything in a checkout: where, what, with which permissions.
fn all(checkout: &Checkout) -> BTreeMap<String, String> {
    let top = checkout.environments().join("production");
    let mut found = BTreeMap::new();
    let mut dirs = vec![top.clone()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (path, stat) = (entry.path(), entry.path().symlink_metadata().unwrap());
            let what = match stat {
                _ if stat.is_dir() => String::new(),
                _ if stat.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
                _ => fs::read_to_string(&path).unwrap(),
            };
            let name = path.strip_prefix(&top).unwrap().display().to_string();
            found.insert(name, format!("{:o} {what}", stat.mode()));
            if stat.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

fn inode(checkout: &Checkout, path: &str) -> u64 {
    fs::symlink_metadata(checkout.environments().join("production").join(path)).unwrap().ino()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_was_changed_is_as_what_is_written_anew(versions in prop::collection::vec(prop::array::uniform9(0_u8..8), 2..5)) {
        let world = World::new();
        let mut retired = None;
        for kinds in &versions {
            let code = code(&world, kinds);
            let changed = make(&world, &code, retired.take());
            prop_assert_eq!(all(&changed), all(&make(&world, &code, None)));
            retired = Some(changed);
        }
    }
}

#[test]
fn only_what_differs_is_written_and_what_was_touched_is_not_relied_upon() {
    let world = World::new();
    let (one, two) = (code(&world, &[1, 3, 0, 3, 1, 3, 0, 3, 6]), code(&world, &[1, 3, 0, 4, 1, 3, 0, 0, 6]));
    let before = make(&world, &one, None);
    let inodes = ["a/x", "a/y", "d"].map(|path| inode(&before, path));
    let after = make(&world, &two, Some(before));
    let stay = ["a/x", "a/y", "d"].map(|path| inode(&after, path));
    assert_eq!((stay[0], stay[2]), (inodes[0], inodes[2]), "what does not differ was written");
    assert_ne!(stay[1], inodes[1]);
    assert_eq!(fs::read_dir(world.dir.path().join("work")).unwrap().count(), 1, "the directory of the first one stays");

    let path_of = |checkout: &Checkout, path: &str| checkout.environments().join("production").join(path);
    type Touch<'a> = &'a dyn Fn(&Checkout);
    let touches: [(&str, Touch<'_>); 6] = [
        ("written in place", &|checkout| {
            let path = path_of(checkout, "a/x");
            let (stat, mode) = (fs::metadata(&path).unwrap(), fs::Permissions::from_mode(0o600));
            fs::set_permissions(&path, mode).unwrap();
            fs::write(&path, "x\n".repeat(100)).unwrap();
            fs::set_permissions(&path, stat.permissions()).unwrap();
            fs::File::open(&path).unwrap().set_modified(stat.modified().unwrap()).unwrap();
        }),
        ("another file", &|checkout| {
            fs::write(path_of(checkout, "other"), "1\n".repeat(100)).unwrap();
            fs::rename(path_of(checkout, "other"), path_of(checkout, "b/x")).unwrap();
        }),
        ("more", &|checkout| fs::write(path_of(checkout, "b/more"), "more").unwrap()),
        ("more at the top", &|checkout| fs::create_dir(path_of(checkout, "more")).unwrap()),
        ("less", &|checkout| fs::remove_file(path_of(checkout, "b/x")).unwrap()),
        ("permissions", &|checkout| {
            fs::set_permissions(path_of(checkout, "b"), fs::Permissions::from_mode(0o500)).unwrap();
        }),
    ];
    for (what, touch) in touches {
        let before = make(&world, &one, None);
        // Later than the last change by any clock of a file system.
        std::thread::sleep(Duration::from_millis(20));
        touch(&before);
        let untouched = inode(&before, "d");
        let after = make(&world, &two, Some(before));
        assert_eq!(all(&after), all(&make(&world, &two, None)), "{what}");
        assert_ne!(inode(&after, "d"), untouched, "{what}");
    }
}

/// Changes one bit of a file as a disk does: nothing that is known of it says so.
fn flip(checkout: &mut Checkout, path: &str) {
    flip_bit(&checkout.environments().join("production").join(path));
    checkout.believe();
}

fn flip_bit(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o400)).unwrap();
}

#[test]
fn what_the_disk_has_damaged_is_in_no_later_version() {
    let world = World::new();
    let (one, two) = (code(&world, &[1, 3, 0, 3, 1, 3, 0, 3, 6]), code(&world, &[1, 3, 0, 4, 1, 3, 0, 0, 6]));
    // One that stays, and one that is written anew all the same.
    for (path, is_kept) in [("a/x", false), ("b/x", false), ("a/y", true)] {
        let mut before = make(&world, &one, None);
        assert_eq!(before.damaged().unwrap(), None);
        flip(&mut before, path);
        assert_eq!(before.damaged().unwrap(), Some(path.parse().unwrap()));
        let inode_before = inode(&before, "a");
        let after = make(&world, &two, Some(before));
        assert_eq!((after.damaged().unwrap(), inode(&after, "a") == inode_before), (None, is_kept), "{path}");
        assert_eq!(all(&after), all(&make(&world, &two, None)), "{path}");
    }
    let mut before = make(&world, &one, None);
    let link = before.environments().join("production/d");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("b", &link).unwrap();
    before.believe();
    assert_eq!(before.damaged().unwrap(), Some("d".parse().unwrap()));
}

#[test]
fn what_the_disk_has_damaged_is_not_compiled() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let compiler = world.compiler();
    let code = world.code(&[("manifests/site.pp", "notify { 'c': message => 'right' }\n")]);
    let site = || {
        let checkout = compiler.pool.lease(&code).unwrap().checkout;
        checkout.environments().join("production/manifests/site.pp")
    };
    let compiles_right = || {
        assert_eq!(message(&compiler.compile(&request(&code, "n1")).unwrap().catalog, "c"), "right");
    };
    compiles_right();
    assert_eq!(compiler.verify(), Vec::<String>::new());
    // The next process that compiles reads it first.
    let damaged = site();
    flip_bit(&damaged);
    compiler.pool.discard(&code, &compiler.pool.lease(&code).unwrap().worker);
    compiles_right();
    assert_ne!(site(), damaged);
    // Or it is found before that.
    flip_bit(&site());
    let said = compiler.verify();
    assert!(said.len() == 1 && said[0].starts_with("manifests/site.pp of production"), "{said:?}");
    assert_eq!(compiler.verify(), Vec::<String>::new());
    compiles_right();
}

#[test]
fn a_version_after_two_is_made_of_the_older_unless_it_is_compiled_still() {
    if !has_puppet() {
        return;
    }
    let world = World::new();
    let compiler = world.compiler();
    let version = |number: u32| {
        let class = format!("class m {{ notify {{ 'c': message => 'class {number}' }} }}\n");
        world.code(&[("manifests/site.pp", "include m\n"), ("modules/m/manifests/init.pp", &class)])
    };
    let codes: Vec<Arc<Code>> = (0..5).map(version).collect();
    let site = |number: usize| inode(&compiler.pool.lease(&codes[number]).unwrap().checkout, "manifests/site.pp");
    let (first, second) = (site(0), site(1));
    assert_ne!(first, second);
    assert_eq!(site(2), first, "the files of the first one are those of the third");
    let held = compiler.pool.lease(&codes[1]).unwrap();
    let fourth = site(3);
    assert_eq!(fourth, first, "the second was asked for since");
    let fifth = site(4);
    assert!(![first, second].contains(&fifth), "somebody compiles from those of the second, and the fourth is as young");
    assert_eq!(inode(&held.checkout, "manifests/site.pp"), second);
    for (number, code) in codes.iter().enumerate().rev() {
        let catalog = compiler.compile(&request(code, "n1")).unwrap().catalog;
        assert_eq!(message(&catalog, "c"), format!("class {number}"));
    }
}

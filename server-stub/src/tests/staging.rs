//! Staging that others write to while, and after, it is published.

use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use direct_puppet_transport::protocol::Digest;
use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};

use super::*;

/// Runs threads that write to staging until `work` is done; returns how often they wrote, and what `work` returned.
async fn beside<T>(writers: Vec<Box<dyn Fn(u64) + Send>>, work: impl Future<Output = T>) -> (u64, T) {
    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = writers
        .into_iter()
        .map(|write| {
            let (stop, writes) = (Arc::clone(&stop), Arc::clone(&writes));
            std::thread::spawn(move || {
                for round in 1.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    write(round);
                    writes.fetch_add(1, Ordering::SeqCst);
                    // A moment in which a publish may find nothing changed.
                    std::thread::sleep(std::time::Duration::from_micros(round * 37 % 4_000));
                }
            })
        })
        .collect();
    let done = work.await;
    stop.store(true, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    (writes.load(Ordering::SeqCst), done)
}

/// Returns the file of every content in a store that lies in a file.
fn stored(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { found.extend(stored(&entry)) } else { found.push(entry) }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_while_it_is_written_to_is_what_its_digests_say() {
    const FILES: usize = 40;
    let world = World::new();
    let content = |byte: u64, number: usize| vec![b'a' + u8::try_from(byte % 26).unwrap(); 1 + number * 2_000];
    for number in 0..FILES {
        world.stage(&format!("modules/app/files/tree/f{number}"), content(0, number));
    }
    let server = world.open();
    publish_all(&server).await;
    let tree = world.environment().join("modules/app/files/tree");
    let rests = Arc::new(AtomicBool::new(false));
    let in_place = {
        let rests = Arc::clone(&rests);
        let files: Vec<_> = (0..FILES / 2)
            .map(|number| fs::OpenOptions::new().write(true).open(tree.join(format!("f{number}"))).unwrap())
            .collect();
        move |round: u64| {
            if rests.load(Ordering::SeqCst) {
                return;
            }
            let number = usize::try_from(round).unwrap() % files.len();
            files[number].write_all_at(&content(round, number), 0).unwrap();
        }
    };
    let by_rename = {
        let (tree, rests) = (tree.clone(), Arc::clone(&rests));
        move |round: u64| {
            if rests.load(Ordering::SeqCst) {
                return;
            }
            let number = FILES / 2 + usize::try_from(round).unwrap() % (FILES / 2);
            fs::write(tree.join("beside"), content(round, number)).unwrap();
            fs::rename(tree.join("beside"), tree.join(format!("f{number}"))).unwrap();
        }
    };
    let publishing = async {
        let (mut accepted, mut refused) = (0, 0);
        for round in 0..campaign(400) {
            // In every fourth they come to their end before, and so nothing changes.
            rests.store(round % 4 == 3, Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(if round % 4 == 3 { 30 } else { 0 })).await;
            let result = publish(&server, PublishRequest::default()).await;
            match result.error {
                Some(error) => {
                    assert_eq!(error.code, "unstable", "{error:?}");
                    refused += 1;
                }
                None => {
                    accepted += 1;
                    assert_eq!(server.verify().unwrap().problems, []);
                }
            }
        }
        (accepted, refused)
    };
    let (writes, (accepted, refused)) = beside(vec![Box::new(in_place), Box::new(by_rename)], publishing).await;
    println!("{writes} writes, {accepted} publishes accepted, {refused} refused");
    assert!(accepted > 0 && refused > 0);
    publish_all(&server).await;
    assert_eq!(server.verify().unwrap().problems, []);
}

#[tokio::test]
async fn a_descriptor_that_was_open_before_writes_to_nothing_that_is_published() {
    let world = World::new();
    // Such as goes into a pack, and such as is copied in pieces.
    let contents = [b"small".to_vec(), vec![b'x'; 100_000], vec![b'y'; 3 << 20]];
    let paths: Vec<PathBuf> =
        (0..contents.len()).map(|number| world.environment().join(format!("modules/app/files/tree/f{number}"))).collect();
    contents.iter().zip(&paths).for_each(|(content, path)| fs::write(path, content).unwrap());
    let mut open: Vec<fs::File> =
        paths.iter().map(|path| fs::OpenOptions::new().read(true).write(true).open(path).unwrap()).collect();
    let server = world.open();
    publish_all(&server).await;
    let inodes: Vec<(u64, u64)> =
        open.iter().map(|file| file.metadata().map(|found| (found.dev(), found.ino())).unwrap()).collect();
    for path in stored(&world.data().join("store")) {
        let found = fs::metadata(&path).unwrap();
        assert!(found.nlink() == 1 && !inodes.contains(&(found.dev(), found.ino())), "{}", path.display());
    }
    for file in &mut open {
        file.write_all_at(b"overwritten", 0).unwrap();
        file.set_len(20).unwrap();
        file.write_all(b"!").unwrap();
    }
    let code = live(&server);
    for (number, content) in contents.iter().enumerate() {
        let path = format!("modules/app/files/tree/f{number}").parse().unwrap();
        assert_eq!(code.read(&path, 4 << 20).unwrap().unwrap(), content[..], "{number}");
    }
    assert_eq!(server.verify().unwrap().problems, []);
    assert!(publish_all(&server).await.changed);
}

/// Whoever may write to staging, and nowhere else, turns a file and a directory into links to what he may not read, and back, as fast as he can.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_swapped_in_while_it_is_copied_brings_nothing_from_outside() {
    const SECRET: &[u8] = b"for nobody's eyes";
    let world = World::new();
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let tree = world.environment().join("modules/app/files/tree");
    for number in 0..20 {
        world.stage(&format!("modules/app/files/tree/d/f{number}"), format!("inside {number}"));
        fs::write(outside.join(format!("f{number}")), SECRET).unwrap();
    }
    world.stage("modules/app/files/tree/file", "inside");
    let aside = world.dir.path().join("staging/aside");
    fs::create_dir(&aside).unwrap();
    symlink(&outside, aside.join("d")).unwrap();
    symlink(outside.join("f0"), aside.join("file")).unwrap();
    let server = world.open();
    publish_all(&server).await;
    let swap = |name: &'static str| -> Box<dyn Fn(u64) + Send> {
        let (one, other, inside) = (tree.join(name), aside.join(name), tree.join("file"));
        Box::new(move |round| {
            for _ in 0..50 {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
            }
            if name == "file" && !inside.is_symlink() {
                // So that the file is read each time, not believed to be as it was.
                fs::write(&inside, format!("inside {round}")).unwrap();
            }
        })
    };
    let publishing = async {
        let (mut accepted, mut refused) = (0, 0);
        for round in 0..campaign(2_000) {
            world.stage("modules/app/files/tree/other", format!("{round}"));
            let result = publish(&server, PublishRequest::default()).await;
            (accepted, refused) = (accepted + usize::from(result.error.is_none()), refused + usize::from(result.error.is_some()));
            assert!(!server.store.has(&Digest::of(SECRET)), "brought by publish {round}: {result:?}");
        }
        (accepted, refused)
    };
    let (swaps, (accepted, refused)) = beside(vec![swap("d"), swap("file")], publishing).await;
    println!("{} swaps, {accepted} publishes accepted, {refused} refused", swaps * 50);
    assert!(swaps > 0 && refused > 0);
    assert_eq!(server.verify().unwrap().problems, []);
    assert!(server.store.digests().unwrap().iter().all(|digest| *digest != Digest::of(SECRET)));
}

#[tokio::test]
async fn extended_attributes_are_not_published() {
    let world = World::new();
    let server = world.open();
    let plain = publish_all(&server).await;
    let path = world.environment().join("modules/app/files/tree/a");
    // With the attribute the file is copied anew.
    fs::write(&path, "content a").unwrap();
    for (name, path) in [("user.test", &path), ("user.test", &world.environment())] {
        if let Err(error) = rustix::fs::setxattr(path, name, b"value", XattrFlags::empty()) {
            println!("LEFT OUT: extended attributes: {error}");
            return;
        }
    }
    let again = publish_all(&server).await;
    assert_eq!((again.changed, again.code_id), (false, plain.code_id));
    world.stage("modules/app/files/tree/large", vec![b'x'; 2 << 20]);
    rustix::fs::setxattr(world.environment().join("modules/app/files/tree/large"), "user.test", b"value", XattrFlags::empty())
        .unwrap();
    publish_all(&server).await;
    let found = stored(&world.data().join("store"));
    assert!(found.iter().any(|path| fs::metadata(path).unwrap().len() == 2 << 20));
    let has_any = |path: &PathBuf| rustix::fs::listxattr(path, &mut Vec::<u8>::new()[..]).unwrap() > 0;
    assert!(!found.iter().any(has_any), "an attribute came along");
}

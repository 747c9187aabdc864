//! Writing many files atomically: all temporary files, one `syncfs`, all renames; and with one `fsync` each instead.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Contents with their paths, in one file, so that reading them costs a floor next to nothing.
#[derive(Debug)]
pub(crate) struct Packed(Vec<u8>);

/// Writes a packed file of a whole tree.
pub(crate) fn pack(tree: &Path, packed: &Path) -> anyhow::Result<()> {
    let mut out = Vec::new();
    for entry in walkdir::WalkDir::new(tree).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            let content = fs::read(entry.path())?;
            let path = entry.path().strip_prefix(tree)?.as_os_str().as_encoded_bytes();
            for part in [path, &content] {
                out.extend_from_slice(&u32::try_from(part.len())?.to_le_bytes());
                out.extend_from_slice(part);
            }
        }
    }
    Ok(fs::write(packed, out)?)
}

impl Packed {
    pub(crate) fn read(packed: &Path) -> anyhow::Result<Self> {
        Ok(Self(fs::read(packed).with_context(|| format!("{} could not be read", packed.display()))?))
    }

    /// Returns paths and contents.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let mut part = || {
                let (length, after) = rest.split_first_chunk::<4>()?;
                let (part, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
                rest = after;
                Some(part)
            };
            Some((std::str::from_utf8(part()?).ok()?, part()?))
        })
    }
}

/// Makes the directories and returns where each content goes.
fn targets<'a>(packed: &'a Packed, root: &Path) -> anyhow::Result<Vec<(PathBuf, &'a [u8])>> {
    let mut targets = Vec::new();
    let mut last = PathBuf::new();
    for (path, content) in packed.files() {
        let target = root.join(path);
        let parent = target.parent().context("a path has a parent")?;
        if parent != last {
            fs::create_dir_all(parent)?;
            parent.clone_into(&mut last);
        }
        targets.push((target, content));
    }
    Ok(targets)
}

fn temporary(target: &Path) -> PathBuf {
    let mut path = target.as_os_str().to_owned();
    path.push(".tmp");
    path.into()
}

pub(super) fn write_all(packed: &Path, root: &Path) -> anyhow::Result<()> {
    let packed = Packed::read(packed)?;
    let targets = targets(&packed, root)?;
    for (target, content) in &targets {
        fs::write(temporary(target), content)?;
    }
    rustix::fs::syncfs(File::open(root)?)?;
    for (target, _) in &targets {
        fs::rename(temporary(target), target)?;
    }
    Ok(())
}

pub(super) fn fsync_each(packed: &Path, root: &Path) -> anyhow::Result<()> {
    let packed = Packed::read(packed)?;
    for (target, content) in targets(&packed, root)? {
        let mut file = File::create_new(temporary(&target))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(temporary(&target), &target)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_write_the_tree_that_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, packed) = (dir.path().join("tree"), dir.path().join("packed"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/c"), "one").unwrap();
        fs::write(tree.join("empty"), "").unwrap();
        pack(&tree, &packed).unwrap();
        for (name, way) in [("x", write_all as fn(&Path, &Path) -> _), ("y", fsync_each)] {
            let root = dir.path().join(name);
            fs::create_dir(&root).unwrap();
            way(&packed, &root).unwrap();
            assert_eq!(fs::read_to_string(root.join("a/b/c")).unwrap(), "one");
            assert_eq!(fs::read(root.join("empty")).unwrap(), b"");
            assert_eq!(fs::read_dir(root.join("a/b")).unwrap().count(), 1);
        }
    }
}

//! Following links, where a catalog says so.

use direct_puppet_transport::protocol::TreePath;

use super::{FileKind, FsError, FsErrorKind, Root};

/// How many links in a row are followed: as many as the kernel follows (`MAXSYMLINKS`).
pub(crate) const MAX_LINKS: usize = 40;

impl Root {
    /// Follows links at `path`, not on the way to it, within the root. `None` when nothing is there at the end. Blocking.
    ///
    /// # Errors
    ///
    /// When they form a circle, or something on the way cannot be looked at.
    pub fn resolve_links(&self, path: &TreePath) -> Result<Option<TreePath>, FsError> {
        let mut path = path.clone();
        for _ in 0..MAX_LINKS {
            match self.stat(&path)? {
                None => return Ok(None),
                Some(stat) if stat.kind() != FileKind::Link => return Ok(Some(path)),
                Some(_) => {}
            }
            let target = self.read_link(&path)?;
            let Some(next) = link_destination(&path, &target) else { return Ok(None) };
            path = next;
        }
        Err(FsError {
            path: self.display(&path),
            attempt: "follow the links at",
            kind: FsErrorKind::NotBeneath,
            hint: Some("they form a circle"),
            source: std::io::Error::from_raw_os_error(rustix::io::Errno::LOOP.raw_os_error()),
        })
    }

    /// Follows links at `path` and on the way to it, within the root. `None` when nothing is there at the end, also because links form a circle
    /// or a file stands where a directory should. Blocking.
    ///
    /// # Errors
    ///
    /// When something on the way cannot be looked at.
    pub fn resolve(&self, path: &TreePath) -> Result<Option<TreePath>, FsError> {
        let mut resolved = TreePath::root();
        let mut followed = 0;
        // What is still to go, the next one last.
        let mut names: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        names.reverse();
        while let Some(name) = names.pop() {
            let next = match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    resolved = resolved.parent().unwrap_or_default();
                    continue;
                }
                name => resolved.child(name),
            };
            let Ok(next) = next else { return Ok(None) };
            match self.stat(&next)?.map(|stat| stat.kind()) {
                None => return Ok(None),
                Some(FileKind::Link) => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return Ok(None);
                    }
                    let target = self.read_link(&next)?;
                    if target.starts_with(b"/") {
                        resolved = TreePath::root();
                    }
                    names.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                }
                Some(kind) if kind != FileKind::Directory && !names.is_empty() => return Ok(None),
                Some(_) => resolved = next,
            }
        }
        Ok(Some(resolved))
    }
}

/// Returns the path that a link at `path` with `target` points to, by its text; `None` when it is no valid path. As for the
/// kernel, `..` at the root is the root.
#[must_use]
pub fn link_destination(path: &TreePath, target: &[u8]) -> Option<TreePath> {
    let mut destination = if target.starts_with(b"/") { TreePath::root() } else { path.parent()? };
    for name in target.split(|&byte| byte == b'/') {
        destination = match name {
            b"" | b"." => destination,
            b".." => destination.parent().unwrap_or_default(),
            name => destination.child(name).ok()?,
        };
    }
    Some(destination)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_on_the_way_are_followed_within_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        std::fs::write(dir.path().join("usr/bin/ls"), "").unwrap();
        for (link, target) in [
            ("bin", "usr/bin"),
            ("usr/sbin", "/bin"),
            ("up", "../../usr/sbin/../bin/."),
            ("gone", "usr/none"),
            ("a", "b"),
            ("b", "a"),
            ("usr/bin/dir", "ls"),
        ] {
            std::os::unix::fs::symlink(target, dir.path().join(link)).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        for (path, found) in [
            ("/usr/bin/ls", Some("/usr/bin/ls")),
            ("/bin/ls", Some("/usr/bin/ls")),
            ("/usr/sbin/ls", Some("/usr/bin/ls")),
            ("/up/ls", Some("/usr/bin/ls")),
            ("/bin/dir", Some("/usr/bin/ls")),
            ("/bin", Some("/usr/bin")),
            ("/", Some("/")),
            ("/gone", None),
            ("/gone/x", None),
            ("/a/x", None),
            ("/usr/bin/ls/x", None),
            ("/bin/none", None),
        ] {
            let path = TreePath::from_absolute(path.as_bytes()).unwrap();
            assert_eq!(root.resolve(&path).unwrap().map(|path| path.absolute()).as_deref(), found, "{path}");
        }
    }
}

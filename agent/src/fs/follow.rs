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

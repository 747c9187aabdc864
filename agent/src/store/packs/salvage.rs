//! Bringing what is whole out of a pack whose index is damaged.

use std::fs::File;
use std::path::Path;

use direct_puppet_transport::protocol::Digest;

use super::{MAX_PACKED_BYTES, format, read_at};
use crate::fs::FsError;
use crate::store::Store;

impl Store {
    /// Puts every content of a damaged pack that is proved by the second half of its digest into the store again, durably, by its whole
    /// digest; returns how many there were. Those that were removed come back too, until the next collection.
    pub(super) fn salvage(&self, path: &Path) -> Result<usize, FsError> {
        let failed = |error| FsError::new(path, "bring contents out of the damaged pack", error);
        let file = File::open(path).map_err(failed)?;
        let batch = self.batch();
        let mut count = 0;
        let take = |(second_half, offset, len): format::Tail| {
            if u64::from(len) > MAX_PACKED_BYTES {
                return Ok(());
            }
            match read_at(&file, offset, len) {
                Ok(content) => {
                    let digest = Digest::of(&content);
                    if digest.bytes()[16..] == second_half {
                        count += usize::from(batch.append(digest, &content)?);
                    }
                }
                Err(error) => tracing::debug!(%error, pack = %path.display(), offset, "a content cannot be read"),
            }
            Ok(())
        };
        format::read_tails(&file, take).map_err(failed)??;
        batch.finish()?;
        self.sync()?;
        Ok(count)
    }
}

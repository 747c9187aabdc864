//! Small files, which are read and put many at a time.

use std::time::SystemTime;

use direct_puppet_agent::fs::FileKind;
use direct_puppet_agent::store::Put;
use direct_puppet_agent::tree::{FileToRead, Pool, ReadTogether, TreeEntry};
use direct_puppet_transport::protocol::Digest;
use rayon::prelude::*;

use super::copy::{Copier, FILES_PER_TASK};
use super::index::Recorded;
use super::room::SMALL_BYTES;
use crate::error::ServerError;

/// How much is read before it is put, in bytes.
const READ_BYTES: u64 = 16 << 20;

impl Copier<'_> {
    /// Returns contents that need not be copied one by one: those that metadata prove, and those of small files, which are read and put many at
    /// a time. What is wrong with one that is not among them is found out when it is copied by itself.
    pub(super) fn known(
        &self,
        piece: &[TreeEntry],
        recorded: &[Recorded],
        pool: &Pool,
    ) -> Result<Vec<Option<Digest>>, ServerError> {
        let proved = |recorded: &Recorded| match recorded {
            Recorded::Proved(digest) => Some(*digest).filter(|digest| self.server.store.has(digest)),
            _ => None,
        };
        let mut known: Vec<Option<Digest>> =
            pool.install(|| recorded.par_iter().with_min_len(FILES_PER_TASK).map(proved).collect());
        let is_small = |at: &usize| piece[*at].stat.kind() == FileKind::File && piece[*at].stat.size <= SMALL_BYTES;
        let small: Vec<usize> = (0..piece.len()).filter(|&at| known[at].is_none()).filter(is_small).collect();
        let mut bytes = 0;
        let is_one_more = |&at: &usize, _: &usize| {
            bytes = if bytes < READ_BYTES { bytes + piece[at].stat.size } else { piece[at].stat.size };
            bytes < READ_BYTES
        };
        for group in small.chunk_by(is_one_more) {
            let read_at = SystemTime::now();
            let files: Vec<FileToRead<'_>> =
                group.iter().map(|&at| FileToRead { path: &piece[at].path, size: piece[at].stat.size }).collect();
            // Without more threads they are copied one by one.
            let read = pool.install(|| self.reader.read(&files)).unwrap_or_default();
            let put = |mut read: ReadTogether| {
                let puts = self.batch.put_together(&mut read);
                self.reader.reuse(read);
                puts
            };
            let puts: Vec<Vec<(usize, Put)>> = pool.install(|| read.into_par_iter().map(put).collect::<Result<_, _>>())?;
            for (index, put) in puts.into_iter().flatten() {
                let at = group[index];
                self.was_read(&piece[at], put, read_at);
                known[at] = Some(put.digest);
            }
        }
        Ok(known)
    }
}

//! The private thread pool.

use std::io;
use std::thread::available_parallelism;

use super::dir::RootDir;

/// Threads for reading and hashing; never the global pool of rayon, which belongs to the program that embeds this library.
#[derive(Debug)]
pub struct Pool(rayon::ThreadPool);

impl Pool {
    /// Starts a pool of `threads` threads; 0 for one per core.
    ///
    /// # Errors
    ///
    /// When the operating system refuses a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        builder(threads).build().map(Self).map_err(io::Error::other)
    }

    /// Runs `work` on threads that have descriptors of their own, and of all that is open that of `root` alone: what it opens it reads and closes
    /// by one thread each, and it calls nothing that is not ours. They have ended when this returns. One thread alone waits for no other, and has what
    /// all have.
    ///
    /// # Errors
    ///
    /// As [`Pool::new`].
    pub(super) fn apart<R: Send>(threads: usize, root: &RootDir, work: impl FnOnce() -> R + Send) -> io::Result<R> {
        let threads = count(threads);
        let begin = |thread: rayon::ThreadBuilder| {
            // Where that cannot be, they have what all have.
            let _is_apart = threads > 1 && direct_puppet_sys::keep_descriptors_apart(root.fd());
            thread.run();
        };
        builder(threads).build_scoped(begin, |pool| pool.install(work)).map_err(io::Error::other)
    }

    /// Runs `work` on the pool, and everything that it starts in parallel too.
    ///
    /// # Blocking
    ///
    /// Until `work` has returned.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.install(work)
    }
}

fn count(threads: usize) -> usize {
    // Asked explicitly, because rayon's own default reads an environment variable that is not ours.
    if threads == 0 { available_parallelism().map_or(1, usize::from) } else { threads }
}

fn builder(threads: usize) -> rayon::ThreadPoolBuilder {
    let threads = count(threads);
    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("tree-{index}"))
}

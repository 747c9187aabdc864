//! The private thread pool.

use std::io;
use std::thread::available_parallelism;

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
        // Asked explicitly, because rayon's own default reads an environment variable that is not ours.
        let threads = if threads == 0 { available_parallelism().map_or(1, usize::from) } else { threads };
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("tree-{index}"))
            .build()
            .map(Self)
            .map_err(io::Error::other)
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

//! The private thread pool.

use std::io;
use std::os::fd::AsFd as _;
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
        Self::build(threads, || {})
    }

    fn build(threads: usize, begin: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        // Asked explicitly, because rayon's own default reads an environment variable that is not ours.
        let threads = if threads == 0 { available_parallelism().map_or(1, usize::from) } else { threads };
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .start_handler(move |_| begin())
            .thread_name(|index| format!("tree-{index}"))
            .build()
            .map(Self)
            .map_err(io::Error::other)
    }

    /// As [`Pool::new`], with threads that have descriptors of their own, and of all that is open that of `root` alone: for work that opens what
    /// it reads, by one thread each, and calls nothing that is not ours.
    pub(super) fn apart(threads: usize, root: &RootDir) -> io::Result<Self> {
        let kept = root.share();
        Self::build(threads, move || {
            // Where that cannot be, they have what all have.
            let _is_apart = direct_puppet_sys::keep_descriptors_apart(kept.as_fd());
        })
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

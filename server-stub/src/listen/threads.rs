//! Threads that answer, each for connections of its own.
//!
//! On a runtime whose threads take each other's work, a thread that finds requests on two connections wakes another one, which takes
//! one of them and sleeps again. For small answers that costs more than they do. Here a connection stays on its thread.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Threads for blocking work that all of them may have together: as many as a runtime of tokio has by itself.
const MOST_BLOCKING: usize = 512;

/// And each of them at least: some of such work waits for other.
const LEAST_BLOCKING: usize = 64;

/// Threads for connections; see [`HttpListener::on_threads`](super::HttpListener::on_threads). Several listeners may share them.
///
/// Tasks that answers begin belong to them too, and may be what other answers wait for: keep this as long as what answers. Dropping it ends the
/// tasks and waits for the threads, and for blocking work that has begun on behalf of them.
#[derive(Debug)]
pub struct Threads {
    all: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    /// Connections that are on it.
    connections: Arc<AtomicUsize>,
    /// `None` once it is told to end.
    running: Option<DropGuard>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A connection's place on a thread.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Threads {
    /// Starts as many threads.
    ///
    /// # Errors
    ///
    /// When the system gives no more threads or descriptors.
    pub fn start(count: NonZero<usize>) -> io::Result<Self> {
        let mut threads = Self { all: Vec::with_capacity(count.get()) };
        let most_blocking = (MOST_BLOCKING / count).max(LEAST_BLOCKING);
        for number in 0..count.get() {
            threads.all.push(Thread::start(number, most_blocking)?);
        }
        Ok(threads)
    }

    /// Returns how many suit this process: half as many as processors that it may use. The fewer threads share a load, the more requests each
    /// finds when it wakes, and waking is most of what an answer from memory costs; the other processors compile and hash.
    #[must_use]
    pub fn fitting() -> NonZero<usize> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        NonZero::new(processors.div_ceil(2)).unwrap_or(NonZero::<usize>::MIN)
    }

    /// Returns a place on the thread that has the fewest connections.
    pub(super) fn seat(&self) -> Option<Seat> {
        let thread = self.all.iter().min_by_key(|thread| thread.connections.load(Ordering::Relaxed))?;
        thread.connections.fetch_add(1, Ordering::Relaxed);
        Some(Seat { runtime: thread.runtime.clone(), connections: Arc::clone(&thread.connections) })
    }
}

impl Thread {
    fn start(number: usize, most_blocking: usize) -> io::Result<Self> {
        let (stop, (send, receive)) = (CancellationToken::new(), std::sync::mpsc::channel());
        let stopped = stop.clone();
        let mut builder = Builder::new_current_thread();
        builder.enable_all().thread_name(format!("answers-{number}-work")).max_blocking_threads(most_blocking);
        // Made on its own thread, so that it ends there too, whatever goes wrong: it may not where something is awaited.
        let run = move || match builder.build() {
            Ok(runtime) => {
                if send.send(Ok(runtime.handle().clone())).is_ok() {
                    runtime.block_on(stopped.cancelled());
                }
            }
            Err(error) => drop(send.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name(format!("answers-{number}")).spawn(run)?;
        let runtime = receive.recv().map_err(io::Error::other)??;
        Ok(Self { runtime, connections: Arc::default(), running: Some(stop.drop_guard()), thread: Some(thread) })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // All are told before one is waited for.
        for thread in &mut self.all {
            thread.running = None;
        }
        for thread in &mut self.all {
            if let Some(Err(_)) = thread.thread.take().map(std::thread::JoinHandle::join) {
                tracing::error!("a thread that answers panicked; this is a bug");
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_where_the_fewest_are_and_leave_their_place_when_they_end() {
        let threads = Threads::start(NonZero::new(3).unwrap()).unwrap();
        let on = |threads: &Threads| -> Vec<usize> {
            threads.all.iter().map(|thread| thread.connections.load(Ordering::Relaxed)).collect()
        };
        let mut seats: Vec<Seat> = (0..7).filter_map(|_| threads.seat()).collect();
        assert_eq!(on(&threads), [3, 2, 2]);
        seats.retain(|seat| !Arc::ptr_eq(&seat.connections, &threads.all[1].connections));
        assert_eq!(on(&threads), [3, 0, 2]);
        seats.extend((0..2).filter_map(|_| threads.seat()));
        assert_eq!(on(&threads), [3, 2, 2]);
        drop(seats);
        assert_eq!(on(&threads), [0, 0, 0]);
    }

    #[test]
    fn a_task_runs_on_the_thread_of_its_place_and_ends_with_it() {
        let threads = Threads::start(NonZero::new(1).unwrap()).unwrap();
        let seat = threads.seat().unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        let ended = send.clone();
        struct Ends(std::sync::mpsc::Sender<Option<String>>);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.send(None).unwrap();
            }
        }
        seat.runtime.spawn(async move {
            let _ends = Ends(ended);
            send.send(std::thread::current().name().map(str::to_owned)).unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(receive.recv().unwrap().as_deref(), Some("answers-0"));
        drop(threads);
        assert_eq!(receive.try_recv().unwrap(), None, "the thread is waited for");
    }
}

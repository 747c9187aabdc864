//! Answers that are made in turns: each is one piece of blocking work, which begins when the peer has taken what the one before made and
//! a permit is free. So they take no more cores than there are permits, however many ask.

use std::io;
use std::sync::Arc;

use direct_puppet_transport::{FetchItem, FetchItems};
use futures::StreamExt as _;
use tokio::sync::Semaphore;

use crate::blocking;

/// An answer, and where it stands.
pub(super) trait Turns: Send + 'static {
    /// Whether all of it is made.
    fn is_over(&self) -> bool;

    /// Makes what comes next. Blocking.
    fn turn(&mut self) -> io::Result<Vec<FetchItem>>;
}

/// Streams an answer; it ends with the first error.
pub(super) fn stream(answer: impl Turns, permits: Arc<Semaphore>) -> FetchItems {
    let turns = futures::stream::try_unfold((answer, permits), |(mut answer, permits)| async move {
        if answer.is_over() {
            return Ok(None);
        }
        let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
        let turn = move || {
            let items = answer.turn();
            drop(permit);
            items.map(|items| (items, answer))
        };
        let (items, answer) = blocking::run(turn).await.map_err(io::Error::other)??;
        Ok(Some((items, (answer, permits))))
    });
    let items = turns.flat_map(|turn: io::Result<Vec<FetchItem>>| match turn {
        Ok(items) => futures::stream::iter(items.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => futures::stream::iter(vec![Err(error)]),
    });
    items.boxed()
}

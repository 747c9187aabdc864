//! In the background: a replica brings the news, a primary keeps its peers from taking themselves for one.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::chain;
use crate::server::Server;

/// How long the primary is asked to hold its answer while there is no news.
///
/// With each question it is told which code nodes have: that is as old at the most.
const HOLD_SECONDS: u32 = 60;

/// How long to leave a server alone that could not be asked; doubles up to [`LONGEST_QUIET`]: nodes that wait here hear of what is published
/// after that time at the latest.
const QUIET: Duration = Duration::from_millis(500);
const LONGEST_QUIET: Duration = Duration::from_secs(2);

/// The same where it can be asked and what it has cannot be brought, as with a full disk.
const LONGEST_BEHIND: Duration = Duration::from_secs(30);

/// How often news are asked for while others are still being brought.
const NEWS_EVERY: Duration = Duration::from_secs(5);

/// How often a primary tells its peers that it is one.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How often a primary looks whether its replicas have what is live.
const LOOK_EVERY: Duration = Duration::from_secs(10);

impl Server {
    /// Keeps a replica at what the primary has, until `stop`: between check-ins this brings the news, so that confirming them finds
    /// everything here. A primary tells its peers of its epoch, so that one that was replaced while it was away hears of it. Both
    /// bring contents again that were damaged here. A primary warns of replicas that are behind.
    ///
    /// # Cancel safety
    ///
    /// Safe: what came stays.
    pub async fn follow(&self, stop: &CancellationToken) {
        tokio::join!(self.hear_of_news(stop), self.mend(stop), self.watch_followers(stop));
    }

    async fn watch_followers(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => drop(self.look_at_followers()),
            }
        }
    }

    async fn hear_of_news(&self, stop: &CancellationToken) {
        let (Some(upstream), Some(peers)) = (&self.upstream, &self.peers) else { return stop.cancelled().await };
        let (mut quiet, mut said) = (QUIET, String::new());
        loop {
            let turn = async {
                if self.role.is_primary() {
                    let told = self.tell_peers(peers).await.map_err(|error| (chain(&error), LONGEST_QUIET));
                    self.end_promotion_as_is_due().await;
                    if told.is_ok() {
                        // Who is replaced follows at once.
                        tokio::select! {
                            () = tokio::time::sleep(TELL_EVERY) => {}
                            () = self.role.replaced() => {}
                        }
                    }
                    return told;
                }
                // What could not be written is asked for again, though nothing is new.
                let hold = if upstream.unlearned().is_some() { 0 } else { HOLD_SECONDS };
                let nodes = self.nodes.by_code();
                let answer = tokio::select! {
                    answer = upstream.ask(hold, Some(&nodes)) => answer.map_err(|reason| (reason, LONGEST_QUIET))?,
                    // Whoever it asks may be silent, and the others are to hear of this one at once.
                    () = self.role.promoted() => return Ok(()),
                };
                match tokio::time::timeout(NEWS_EVERY, answer.arrivals()).await {
                    Ok(behind) if !behind.is_empty() => {
                        let reasons = behind.iter().map(|(environment, reason)| format!("environment {environment}: {reason}"));
                        Err((reasons.collect::<Vec<_>>().join("; "), LONGEST_BEHIND))
                    }
                    // What takes longer goes on, beside the news of other environments.
                    _ => upstream.unlearned().map_or(Ok(()), |reason| Err((reason, LONGEST_QUIET))),
                }
            };
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = turn => result,
            };
            let Err((reason, longest)) = result else {
                (quiet, said) = (QUIET, String::new());
                continue;
            };
            if reason != said {
                tracing::warn!(reason, "another server cannot be followed or told for now");
                said = reason;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(quiet) => {}
            }
            // One that comes back and takes itself for the primary is to hear of this one before much is published there.
            quiet = (quiet * 2).min(longest);
        }
    }
}

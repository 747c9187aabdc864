//! What every transport must do, as one suite.
//!
//! [`run`] is given a way to put a [`Handler`] behind a transport, and makes every check over a fresh one. It panics with
//! the names of the transport and of the check when an obligation of [`Transport`] is broken, also when a call hangs.

mod failures;
mod messages;
mod site;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use crate::handler::Handler;
use crate::transport::Transport;

use site::Site;

/// How long one check may take; a hundred times what the slowest takes, so that only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// How far a producer may be ahead of a caller that takes nothing, in bytes: the buffers of the kernel, an HTTP/2 window,
/// some chunks in the hands of each side. Far below [`LARGE_BYTES`].
const AHEAD_BYTES: u64 = 8 << 20;

/// Length of the content that must stream, in bytes.
const LARGE_BYTES: u64 = 64 << 20;

/// What keeps a server alive while its transport is tested; dropping it stops the server.
pub trait Guard: Send + Sync {
    /// Ends the server at once, as a crash would, and returns `true`; `false` where there is no server that can go away.
    fn cut(&mut self) -> bool;
}

impl Guard for () {
    fn cut(&mut self) -> bool {
        false
    }
}

/// Makes every check over the transports that `make` returns, each in front of the handler it is given.
///
/// Needs a tokio runtime with real time.
///
/// # Panics
///
/// When the transport breaks an obligation.
pub async fn run<M, F, G>(name: &str, make: M)
where
    M: Fn(Arc<dyn Handler>) -> F + Send + Sync,
    F: Future<Output = (Arc<dyn Transport>, G)> + Send,
    G: Guard,
{
    macro_rules! check {
        ($($module:ident::$check:ident),* $(,)?) => {$({
            let (site, mut guard, transport) = {
                let site = Site::default();
                let (transport, guard) = make(Arc::new(site.clone())).await;
                (site, guard, transport)
            };
            let subject = Subject { transport, site, guard: &mut guard };
            let checked = tokio::time::timeout(PATIENCE, $module::$check(subject)).await;
            assert!(checked.is_ok(), "{name}: {} hung", stringify!($check));
        })*};
    }
    let _name = Named(name);
    check!(
        messages::all_operations_round_trip,
        messages::a_large_request_arrives,
        messages::a_refusal_says_when_to_come_back,
        messages::a_request_over_its_limit_is_refused,
        messages::a_response_over_its_limit_is_given_up,
        messages::a_message_that_is_none_is_refused,
        messages::fifty_calls_run_at_once,
        streams::chunks_come_in_order_and_stream,
        streams::a_caller_that_waits_holds_the_producer_back,
        streams::dropping_a_response_stops_the_producer,
        streams::dropping_a_call_stops_the_handler,
        streams::missing_contents_are_named,
        streams::offsets_pass_through,
        streams::empty_contents_are_contents,
        streams::packs_pass_through,
        failures::a_content_that_breaks_off_is_no_clean_end,
        failures::items_that_break_off_are_no_clean_end,
        failures::a_server_that_goes_away_is_no_clean_end,
    );
}

/// What a check works with.
struct Subject<'a> {
    transport: Arc<dyn Transport>,
    site: Site,
    guard: &'a mut dyn Guard,
}

/// Says at a panic which transport it was.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    #[expect(clippy::print_stderr, reason = "the panic itself names only the check")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the transport that failed: {}", self.0);
        }
    }
}

#[cfg(test)]
mod tests;

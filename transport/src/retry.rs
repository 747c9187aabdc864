//! A wrapper that tries again where that is sound.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::error::TransportError;
use crate::transport::{Request, Response, Status, Transport};

/// How often and how long to try.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// How many tries in all, the first included.
    pub max_attempts: u32,
    /// Within which time, from the start of a call, a further try begins. It cuts no try: one alone may take longer, as a compile does, or a
    /// check-in that waits for news. How long a try may take is for [`Timeout`](crate::timeout::Timeout) to say.
    pub budget: Duration,
    /// Upper bound of the first wait; doubles with each try.
    pub base_delay: Duration,
    /// Upper bound of any wait, unless the peer asks for a longer one: then those who are told the same come between that and half as much
    /// later, within the budget.
    pub max_delay: Duration,
    /// Returns a random number; waits are spread evenly over its whole range.
    pub random: fn() -> u32,
}

impl Default for RetryPolicy {
    /// Four tries within two minutes, waits of up to a second at first and of 30 at most: enough for a server that restarts,
    /// short against the half hour between runs.
    fn default() -> Self {
        Self {
            max_attempts: 4,
            budget: Duration::from_secs(120),
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(30),
            random: system_random,
        }
    }
}

/// Returns a number from the operating system; the longest wait where it has none.
#[must_use]
pub fn system_random() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX)
}

/// Tries idempotent operations again after failures that may pass, others only when nothing was sent.
///
/// Once a response has begun nothing is tried again, except a refusal that says when to come back.
#[derive(Debug, Clone)]
pub struct Retry<T> {
    inner: T,
    policy: RetryPolicy,
}

impl<T: Transport> Retry<T> {
    /// Returns `inner` with tries as `policy` says.
    pub const fn new(inner: T, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    /// Returns a wait before the try after number `attempt` (from 1): full jitter, on top of what the peer asked for.
    fn delay(&self, attempt: u32, asked: Option<Duration>, left: Duration) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let most = self.policy.base_delay.saturating_mul(factor).min(self.policy.max_delay);
        let asked = asked.unwrap_or_default();
        // Those who were turned away together do not come back together, and nobody for that too late: what is left of the budget bounds over
        // how long they are spread, not when each of them comes.
        let room = left.saturating_sub(asked).saturating_sub(Duration::from_millis(1));
        let spread = if asked.is_zero() { most } else { most.max(asked / 2).min(room) };
        asked.saturating_add(spread.mul_f64(f64::from((self.policy.random)()) / f64::from(u32::MAX)))
    }
}

/// Returns `None` if the answer stands, else how long the peer asked to wait.
fn again(request: &Request, answer: &Result<Response, TransportError>) -> Option<Option<Duration>> {
    let idempotent = request.operation.is_idempotent();
    match answer {
        Ok(response) if response.status == Status::Refused && idempotent => response.retry_after.map(Some),
        Ok(_) => None,
        Err(error) => {
            let kind = error.kind();
            (kind.is_before_sending() || (idempotent && kind.is_retryable())).then(|| error.retry_after())
        }
    }
}

#[async_trait]
impl<T: Transport> Transport for Retry<T> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let begun = Instant::now();
        let mut attempt = 1;
        loop {
            let answer = self.inner.call(request.clone()).await;
            let Some(asked) = again(&request, &answer) else { return answer };
            let left = self.policy.budget.saturating_sub(begun.elapsed());
            let delay = self.delay(attempt, asked, left);
            if attempt >= self.policy.max_attempts || delay >= left {
                return answer;
            }
            // A refusal's body is given up before the wait, so that it holds no connection.
            drop(answer);
            tokio::time::sleep(delay).await;
            attempt += 1;
        }
    }

    fn endpoint(&self) -> &str {
        self.inner.endpoint()
    }

    fn is_local(&self) -> bool {
        self.inner.is_local()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::error::TransportErrorKind;
    use crate::protocol::Operation;

    #[derive(Debug)]
    struct Failing(TransportErrorKind, Option<Duration>, AtomicU32);

    #[async_trait]
    impl Transport for Failing {
        async fn call(&self, _: Request) -> Result<Response, TransportError> {
            self.2.fetch_add(1, Ordering::Relaxed);
            Err(TransportError::new(self.0, "failing:").with_retry_after(self.1))
        }

        fn endpoint(&self) -> &str {
            "failing:"
        }
    }

    async fn tries(kind: TransportErrorKind, asked: Option<u64>, operation: Operation) -> (u32, Duration) {
        let second = Duration::from_secs(1);
        let policy =
            RetryPolicy { max_attempts: 3, budget: second * 60, base_delay: second, max_delay: second * 8, random: || u32::MAX };
        let retry = Retry::new(Failing(kind, asked.map(Duration::from_secs), AtomicU32::new(0)), policy);
        let begun = Instant::now();
        retry.call(Request { operation, body: Bytes::new() }).await.unwrap_err();
        (retry.inner.2.load(Ordering::Relaxed), begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn only_failures_that_may_pass_are_tried_again() {
        use TransportErrorKind as Kind;
        assert_eq!(tries(Kind::Closed, None, Operation::Fetch).await, (3, Duration::from_secs(3)));
        assert_eq!(tries(Kind::Identity, None, Operation::Fetch).await.0, 1);
        assert_eq!(tries(Kind::Closed, None, Operation::Report).await.0, 1);
        assert_eq!(tries(Kind::Connect, None, Operation::Report).await.0, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_s_wait_is_honoured_within_the_budget() {
        use TransportErrorKind as Kind;
        assert_eq!(tries(Kind::Unavailable, Some(18), Operation::Fetch).await, (3, Duration::from_secs(2 * (18 + 9))));
        assert_eq!(tries(Kind::Unavailable, Some(90), Operation::Fetch).await, (1, Duration::ZERO));
        // At the latest as late as the budget allows.
        assert_eq!(tries(Kind::Unavailable, Some(50), Operation::Fetch).await, (2, Duration::from_millis(59_999)));
    }

    /// A server that turns everybody away, as when it is full, says the same to all.
    #[tokio::test(start_paused = true)]
    async fn those_who_are_told_the_same_wait_do_not_come_back_together() {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Asked for twice by each: the first has 0, the next ones a tenth of the whole range more each.
        let random = || u32::MAX / 20 * NEXT.fetch_add(1, Ordering::Relaxed);
        // Also where the budget leaves less time than they would be spread over.
        for (asked, last) in [(30, 45_000), (100, 119_999)] {
            NEXT.store(0, Ordering::Relaxed);
            let mut came = Vec::new();
            for _ in 0..10 {
                let failing = Failing(TransportErrorKind::Unavailable, Some(Duration::from_secs(asked)), AtomicU32::new(0));
                let retry = Retry::new(failing, RetryPolicy { max_attempts: 2, random, ..RetryPolicy::default() });
                let begun = Instant::now();
                retry.call(Request { operation: Operation::CheckIn, body: Bytes::new() }).await.unwrap_err();
                came.push(begun.elapsed().as_millis());
            }
            assert!(came[0] >= u128::from(asked) * 1000 && came.windows(2).all(|two| two[1] - two[0] >= 700), "{came:?}");
            assert!(came[9] <= last, "{came:?}");
        }
    }

    /// Fails at once at first, then answers after a time.
    #[derive(Debug)]
    struct Slow(AtomicU32, Duration);

    #[async_trait]
    impl Transport for Slow {
        async fn call(&self, _: Request) -> Result<Response, TransportError> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err(TransportError::new(TransportErrorKind::Connect, "slow:"));
            }
            tokio::time::sleep(self.1).await;
            Ok(Response::whole(Status::Accepted, Bytes::new()))
        }

        fn endpoint(&self) -> &str {
            "slow:"
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_try_is_cut_by_the_budget() {
        let request = Request { operation: Operation::CheckIn, body: Bytes::new() };
        for failed in [0, 1] {
            let slow = Slow(AtomicU32::new(1 - failed), Duration::from_secs(400));
            let retry = Retry::new(slow, RetryPolicy::default());
            assert!(retry.call(request.clone()).await.is_ok(), "{failed}");
            assert_eq!(retry.inner.0.load(Ordering::Relaxed), 2);
        }
    }
}

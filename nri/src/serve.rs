//! Running one handler so that its caller gets an answer whatever happens.

use std::any::Any;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, error, warn};

use crate::call::Call;
use crate::ttrpc::{Code, Status};

/// At most this much of a call's time is kept for bringing the answer across.
const LONGEST_MARGIN: Duration = Duration::from_millis(200);

/// When the answer to a call has to be ready whose caller waits for `timeout` from `arrival` on: a
/// tenth earlier, 200 ms at most.
pub(crate) fn deadline(arrival: Instant, timeout: Duration) -> Instant {
    arrival + timeout - (timeout / 10).min(LONGEST_MARGIN)
}

/// Runs a handler. One that panics, or is not done by its deadline, becomes an error.
///
/// The handler runs in another tokio runtime, so that one which blocks its thread does not hold up the
/// answer.
pub(crate) async fn answer(
    handlers: &Handle,
    call: &Call,
    handler: impl Future<Output = Result<Vec<u8>, Status>> + Send + 'static,
) -> Result<Vec<u8>, Status> {
    let (start, method) = (Instant::now(), call.method());
    let mut task = AbortOnDrop(handlers.spawn(handler));
    let outcome = match timeout_at(call.deadline(), &mut task.0).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(failure)) => {
            let panic = failure
                .try_into_panic()
                .map_or_else(|_| "cancelled".to_owned(), panic_message);
            error!(method, panic, "a handler panicked");
            Err(Status::new(
                Code::Internal,
                format!("{method}: the plugin's handler panicked: {panic}"),
            ))
        }
        Err(_) => {
            let waited = start.elapsed();
            warn!(method, ?waited, "a handler was stopped at its deadline");
            Err(Status::new(
                Code::Internal,
                format!("{method}: the plugin had no answer after {waited:.1?}"),
            ))
        }
    };
    debug!(method, elapsed = ?start.elapsed(), ok = outcome.is_ok(), "answered");
    outcome
}

fn panic_message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().unwrap_or(&"no message").to_string(),
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn call(patience: Duration) -> Call {
        Call::new("CreateContainer", Instant::now() + patience, Arc::default())
    }

    #[test]
    fn some_time_is_kept_for_the_answer() {
        let now = Instant::now();
        assert_eq!(
            deadline(now, Duration::from_secs(2)) - now,
            Duration::from_millis(1800)
        );
        assert_eq!(
            deadline(now, Duration::from_millis(100)) - now,
            Duration::from_millis(90)
        );
        assert_eq!(deadline(now, Duration::ZERO), now);
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let status = answer(&Handle::current(), &call(Duration::from_secs(5)), async {
            panic!("oh {}", "no")
        })
        .await
        .unwrap_err();
        assert_eq!(
            status.message,
            "CreateContainer: the plugin's handler panicked: oh no"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn lateness_is_an_answer() {
        let handler = std::future::pending();
        let status = answer(&Handle::current(), &call(Duration::from_millis(1900)), handler)
            .await
            .unwrap_err();
        assert_eq!(
            status.message,
            "CreateContainer: the plugin had no answer after 1.9s"
        );
    }
}

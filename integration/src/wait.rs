//! Waiting for something to become true, with a deadline and a name for it, instead of sleeping and hoping.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long a test waits for what should take a moment, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `poll` again and again until it has an answer; fails, naming `what`, when it has none within `patience`.
///
/// An error of `poll` ends the wait at once.
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    patience: Duration,
    mut poll: impl FnMut() -> F,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = poll().await? {
            return Ok(answer);
        }
        if start.elapsed() > patience {
            bail!("{what}: still not after {patience:?}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answer_ends_the_wait() {
        let polls = std::cell::Cell::new(0);
        let answer = until("third poll", PATIENCE, || {
            polls.set(polls.get() + 1);
            std::future::ready(Ok((polls.get() == 3).then_some("done")))
        });
        assert_eq!(answer.await.unwrap(), "done");
    }

    #[tokio::test]
    async fn deadline_names_what_was_awaited() {
        let never = until("pigs fly", Duration::ZERO, async || Ok(None::<()>)).await;
        assert!(never.unwrap_err().to_string().contains("pigs fly"));
    }
}

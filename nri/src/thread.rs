//! A thread of its own for the connection.
//!
//! A handler that blocks (a file system that hangs, a lock) holds up a thread of the plugin's tokio
//! runtime, and with bad luck the one that all timers and sockets of that runtime depend on. The runtime
//! at the other end would wait in vain, drop the plugin, and create the container without it. So what
//! must not fail, reading, writing and watching deadlines, has a thread to itself, and handlers run in
//! the plugin's tokio runtime.

use std::convert::Infallible;
use std::io;
use std::panic::resume_unwind;
use std::thread::Builder;

use tokio::sync::oneshot;

/// Runs `work` on a thread of its own. When `shutdown` is ready, `work` is told so, and waited for; when
/// the returned future is dropped, `work` is too. A panic in `work` goes on here.
pub(crate) async fn run<T: Send + 'static, F: Future<Output = T>>(
    work: impl FnOnce(oneshot::Receiver<()>) -> F + Send + 'static,
    shutdown: impl Future<Output = ()>,
) -> io::Result<T> {
    let (stop, stopped) = oneshot::channel();
    let (_alive, abandoned) = oneshot::channel::<Infallible>();
    let (done, mut outcome) = oneshot::channel();
    let thread = Builder::new().name("nri".to_owned()).spawn(move || {
        let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let finished = match built {
            Err(error) => Some(Err(error)),
            Ok(runtime) => runtime.block_on(async {
                tokio::select! {
                    outcome = work(stopped) => Some(Ok(outcome)),
                    _ = abandoned => None,
                }
            }),
        };
        // If nobody waits any more, nobody wants to know.
        drop(finished.map(|finished| done.send(finished)));
    })?;
    let finished = tokio::select! {
        finished = &mut outcome => finished,
        () = shutdown => {
            // If the work has ended already, there is nothing to stop.
            let _ = stop.send(());
            outcome.await
        }
    };
    match finished {
        Ok(outcome) => outcome,
        Err(_) => resume_unwind(
            thread
                .join()
                .expect_err("only a panic ends the thread without an outcome"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn work_is_told_to_stop_and_waited_for() {
        let work = async |stopped: oneshot::Receiver<()>| {
            stopped.await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            7
        };
        assert_eq!(run(work, ready(())).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_dropped() {
        struct Tell(Option<oneshot::Sender<()>>);
        impl Drop for Tell {
            fn drop(&mut self) {
                let _ = self.0.take().unwrap().send(());
            }
        }
        let (sender, dropped) = oneshot::channel();
        let tell = Tell(Some(sender));
        let work = async move |_| {
            let _tell = tell;
            pending::<()>().await;
        };
        timeout(Duration::from_millis(20), run(work, pending()))
            .await
            .unwrap_err();
        timeout(Duration::from_secs(10), dropped).await.unwrap().unwrap();
    }

    #[tokio::test]
    #[should_panic(expected = "a bug")]
    async fn a_panic_goes_on() {
        let _ = run(async |_| panic!("a bug"), pending()).await;
    }
}

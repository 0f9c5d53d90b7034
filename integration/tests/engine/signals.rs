//! Signals that ask the container to end, while its guest does something else.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::container::{Container, Running};

fn check(what: &[&str], says: &str, signal: Signal, code: i32) {
    let mut container = Container::new("guest.wasm").args(what).start();
    container.says(says);
    let (status, took) = container.signal(signal);
    assert_eq!(status.code(), Some(code), "{what:?}, {signal}");
    assert!(
        took < Duration::from_secs(1),
        "{what:?} took {took:?} to end on {signal}"
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_signal_ends_a_sleeping_guest() {
    check(&["sleep"], "sleeping\n", Signal::SIGTERM, 143);
    check(&["sleep"], "sleeping\n", Signal::SIGINT, 130);
    check(&["sleep"], "sleeping\n", Signal::SIGQUIT, 131);
    check(&["sleep"], "sleeping\n", Signal::SIGHUP, 129);
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_signal_ends_a_spinning_guest() {
    check(&["spin"], "spinning\n", Signal::SIGTERM, 143);
    check(&["spin"], "spinning\n", Signal::SIGINT, 130);
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_signal_ends_a_guest_that_reads() {
    check(&["read"], "reading\n", Signal::SIGTERM, 143);
    check(&["read"], "reading\n", Signal::SIGINT, 130);
}

/// All whose default is to end a process, but for SIGKILL, which needs no help, and SIGPIPE, which is an error of the
/// guest's write. 32 and 33 belong to the C library, 34 to WasmEdge's timers.
fn ending_signals() -> impl Iterator<Item = i32> {
    let named = Signal::iterator().filter(|signal| {
        !matches!(
            signal,
            Signal::SIGCHLD
                | Signal::SIGCONT
                | Signal::SIGKILL
                | Signal::SIGPIPE
                | Signal::SIGSTOP
                | Signal::SIGTSTP
                | Signal::SIGTTIN
                | Signal::SIGTTOU
                | Signal::SIGURG
                | Signal::SIGWINCH
        )
    });
    named.map(|signal| signal as i32).chain([37, 49, 64])
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn any_signal_that_ends_a_process_can_be_the_stop_signal() {
    for drain in ["0", "1"] {
        // All at once: what takes time is to start them.
        let start = |number| (number, sleeping(drain));
        let containers: Vec<_> = ending_signals().map(start).collect();
        for (number, mut container) in containers {
            container.says("sleeping\n");
            let (status, took) = container.signal_by_number(number);
            assert_eq!(
                status.code(),
                Some(128 + number),
                "signal {number}, drain {drain} ms"
            );
            assert!(took < Duration::from_secs(1), "signal {number} took {took:?}");
        }
    }
}

fn sleeping(drain: &str) -> Running {
    let container = Container::new("guest.wasm").args(["sleep"]);
    container.setting(&format!("drain_ms={drain}")).start()
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn other_signals_change_nothing() {
    for drain in ["0", "5000"] {
        let mut container = Container::new("guest.wasm")
            .args(["nap", "700", "7"])
            .setting(&format!("drain_ms={drain}"))
            .start();
        container.says("napping\n");
        for signal in [Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGPIPE, Signal::SIGURG] {
            container.send(signal as i32);
        }
        let (status, _) = container.signal(Signal::SIGWINCH);
        assert_eq!(status.code(), Some(7));
    }
}

fn draining(what: &[&str], says: &str) -> Running {
    let mut container = Container::new("guest.wasm")
        .args(what)
        .setting("drain_ms=1000")
        .start();
    container.says(says);
    container
}

#[track_caller]
fn check_drained(what: &[&str], took: Duration) {
    let times = Duration::from_millis(950)..Duration::from_millis(1900);
    assert!(times.contains(&took), "{what:?} took {took:?}");
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_guest_drains_before_it_ends() {
    for (what, says) in [("sleep", "sleeping\n"), ("spin", "spinning\n")] {
        let (status, took) = draining(&[what], says).signal(Signal::SIGTERM);
        assert_eq!(status.code(), Some(143), "{what}");
        check_drained(&[what], took);
    }
    let (status, took) = draining(&["sleep"], "sleeping\n").signal(Signal::SIGUSR1);
    assert_eq!(status.code(), Some(138));
    check_drained(&["sleep"], took);
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn a_guest_that_ends_while_it_drains_has_its_own_code() {
    let (status, took) = draining(&["nap", "500", "42"], "napping\n").signal(Signal::SIGTERM);
    assert_eq!(status.code(), Some(42));
    assert!(
        (Duration::from_millis(200)..Duration::from_millis(900)).contains(&took),
        "{took:?}"
    );
}

#[test]
#[ignore = "needs root and the engine's bundle"]
fn the_first_signal_counts() {
    let mut container = draining(&["sleep"], "sleeping\n");
    container.send(Signal::SIGTERM as i32);
    container.has_taken_signals();
    container.send(Signal::SIGINT as i32);
    let (status, took) = container.signal(Signal::SIGTERM);
    assert_eq!(status.code(), Some(143));
    check_drained(&["sleep"], took);
}

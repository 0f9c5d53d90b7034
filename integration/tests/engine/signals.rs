//! Signals that ask the container to end, while its guest does something else.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::container::Container;

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

//! Sets of events.
//!
//! A plugin subscribes with a bit mask. Runtimes before NRI 0.10 know eleven events, and drop a plugin
//! that asks for more; an empty mask means every event there is.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};

use crate::api::Event;

/// A set of events.
///
/// ```
/// use nri::Events;
///
/// let events = Events::CREATE_CONTAINER | Events::STOP_CONTAINER;
/// assert!(events.contains(Events::STOP_CONTAINER));
/// assert_eq!(events.to_string(), "CreateContainer,StopContainer");
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Events(u32);

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $event:ident;)*) => {
        impl Events {
            $($(#[$doc])* pub const $name: Self = Self::of(Event::$event);)*

            const NAMED: [(Self, &'static str); 14] = [$((Self::$name, stringify!($event))),*];

            /// The protocol's name of an event, if it is a known one.
            pub(crate) fn name(event: Event) -> Option<&'static str> {
                match event {
                    $(Event::$event => Some(stringify!($event)),)*
                    _ => None,
                }
            }
        }
    };
}

events! {
    /// A pod sandbox is being started.
    RUN_POD_SANDBOX = RunPodSandbox;
    /// A pod sandbox is being stopped.
    STOP_POD_SANDBOX = StopPodSandbox;
    /// A pod sandbox is being removed.
    REMOVE_POD_SANDBOX = RemovePodSandbox;
    /// A container is being created.
    CREATE_CONTAINER = CreateContainer;
    /// A container has been created.
    POST_CREATE_CONTAINER = PostCreateContainer;
    /// A container is being started.
    START_CONTAINER = StartContainer;
    /// A container has been started.
    POST_START_CONTAINER = PostStartContainer;
    /// A container's resources are about to change.
    UPDATE_CONTAINER = UpdateContainer;
    /// A container's resources have changed.
    POST_UPDATE_CONTAINER = PostUpdateContainer;
    /// A container is being stopped.
    STOP_CONTAINER = StopContainer;
    /// A container is being removed.
    REMOVE_CONTAINER = RemoveContainer;
    /// A pod's resources are about to change.
    UPDATE_POD_SANDBOX = UpdatePodSandbox;
    /// A pod's resources have changed.
    POST_UPDATE_POD_SANDBOX = PostUpdatePodSandbox;
    /// A container's adjustments are to be judged.
    VALIDATE_CONTAINER_ADJUSTMENT = ValidateContainerAdjustment;
}

impl Events {
    /// No event.
    pub const NONE: Self = Self(0);

    /// Every event of NRI 0.12.
    pub const ALL: Self = Self((1 << 14) - 1);

    /// The events that runtimes before NRI 0.10 know.
    pub const BEFORE_0_10: Self = Self((1 << 11) - 1);

    const fn of(event: Event) -> Self {
        Self(1 << (event as u32 - 1))
    }

    /// Whether every event of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is no event in this set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The mask as the protocol carries it.
    pub const fn bits(self) -> i32 {
        self.0.cast_signed()
    }

    /// The set that a mask of the protocol stands for, unknown bits included.
    pub const fn from_bits(bits: i32) -> Self {
        Self(bits.cast_unsigned())
    }
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Events {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Events {
    type Output = Self;

    /// The events of NRI 0.12 that are not in this set.
    fn not(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }
}

impl fmt::Display for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (event, name) in Self::NAMED {
            if self.contains(event) {
                write!(formatter, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

//! Keeps what need not be looked at in the kernel: a program for its packet filter, or a plainer one where it takes no programs.

use std::io;
use std::os::fd::BorrowedFd;

use tracing::debug;

use crate::classic;
use crate::connections::Before;
use crate::program::{Loader, Program, Refused, Ring};

/// Which filters may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The better one, or where the kernel does not take it the plain one.
    #[default]
    Auto,
    /// The plain one, which every kernel takes. Bodies and answers to the pod are then received, to be passed over.
    Classic,
}

/// Makes filters.
#[derive(Debug)]
pub struct Filters {
    loader: Option<Loader>,
}

/// A filter at work on a socket.
#[derive(Debug)]
pub enum Filter {
    /// The plain one.
    Classic,
    /// The program.
    Program(Program),
}

impl Filters {
    /// Gets ready to attach filters. What gets through them is then in the ring, if there is one, and otherwise in their sockets. Why there
    /// is none is to be said when there is a log.
    pub fn new(choice: Choice) -> (Self, Option<Ring>, Option<Refused>) {
        let made = match choice {
            Choice::Auto => Loader::new(),
            Choice::Classic => return (Self { loader: None }, None, None),
        };
        match made {
            Ok((loader, ring)) => (Self { loader: Some(loader) }, Some(ring), None),
            Err(error) => (Self { loader: None }, None, Some(error)),
        }
    }

    /// Has a socket receive only what passes a filter.
    pub fn attach(&self, socket: BorrowedFd<'_>) -> io::Result<Filter> {
        match self.loader.as_ref().map(|loader| loader.attach(socket)) {
            Some(Ok(program)) => return Ok(Filter::Program(program)),
            Some(Err(error)) => refused(&error),
            None => {}
        }
        classic::attach(socket)?;
        Ok(Filter::Classic)
    }
}

/// Says that the kernel does not take the program.
pub fn refused(error: &Refused) {
    let error = error as &dyn std::error::Error;
    debug!(
        error,
        "the kernel does not take the program, and gets a plain filter"
    );
}

impl Filter {
    /// Its name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Program(_) => "program",
        }
    }

    /// Says what was there before the socket was.
    pub fn looked(&mut self, before: &Before) {
        if let Self::Program(program) = self
            && let Err(error) = program.set_listening(&before.listening)
        {
            debug!(%error, "the filter lets all ports through");
        }
    }
}

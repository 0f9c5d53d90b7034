//! What the compiler is asked to do: its command line.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::ffi::OsString;
use std::str::FromStr;

use thiserror::Error;

use crate::proposal::{Proposal, UnknownProposal};

/// One call of the compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make native code of the module on stdin.
    Compile(Task),
    /// Name the processor that native code is made for.
    Cpu,
    /// Name the compiler.
    Version,
}

/// How a module is to be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// What compiling may cost.
    pub tier: Tier,
    /// What the module may use beyond version 2.0 of the core specification.
    pub proposals: Vec<Proposal>,
}

/// How much time is spent for how fast the code will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Ready soon.
    Fast,
    /// Runs fast.
    Optimised,
}

/// A command line that is none of the compiler's.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum UsageError {
    /// A proposal that can only be interpreted.
    #[error("there is no native code for {0}")]
    NoNativeCode(Proposal),
    /// Without a tier there is nothing to do.
    #[error("--tier fast or --tier optimised is needed")]
    NoTier,
    /// An option without its value.
    #[error("{0} needs a value")]
    NoValue(&'static str),
    /// Not an option.
    #[error("there is no option {0:?}")]
    Unknown(String),
    /// Not a proposal.
    #[error(transparent)]
    UnknownProposal(#[from] UnknownProposal),
    /// Not a tier.
    #[error("there is no tier {0:?}, only fast and optimised")]
    UnknownTier(String),
}

impl Request {
    /// Reads the arguments behind the program's name.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let arguments = arguments.into_iter();
        let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
        let (mut tier, mut proposals) = (None, Vec::new());
        while let Some(argument) = arguments.next() {
            match &*argument {
                "--cpu" => return Ok(Self::Cpu),
                "--enable" => proposals.push(proposal(&value(arguments.next(), "--enable")?)?),
                "--tier" => tier = Some(value(arguments.next(), "--tier")?.parse()?),
                "--version" => return Ok(Self::Version),
                _ => return Err(UsageError::Unknown(argument)),
            }
        }
        let tier = tier.ok_or(UsageError::NoTier)?;
        Ok(Self::Compile(Task { tier, proposals }))
    }
}

fn value(argument: Option<String>, option: &'static str) -> Result<String, UsageError> {
    argument.ok_or(UsageError::NoValue(option))
}

fn proposal(name: &str) -> Result<Proposal, UsageError> {
    let proposal: Proposal = name.parse()?;
    if proposal.has_native_code() {
        Ok(proposal)
    } else {
        Err(UsageError::NoNativeCode(proposal))
    }
}

impl FromStr for Tier {
    type Err = UsageError;

    fn from_str(name: &str) -> Result<Self, UsageError> {
        match name {
            "fast" => Ok(Self::Fast),
            "optimised" => Ok(Self::Optimised),
            _ => Err(UsageError::UnknownTier(name.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Request, UsageError> {
        Request::parse(line.split_whitespace().map(OsString::from))
    }

    #[track_caller]
    fn check_refused(line: &str, expected: &str) {
        let error = parse(line).expect_err("this is no request");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_command_line_is_a_request() {
        let task = |tier, proposals: &[Proposal]| {
            Ok(Request::Compile(Task {
                tier,
                proposals: proposals.to_vec(),
            }))
        };
        assert_eq!(parse("--tier fast"), task(Tier::Fast, &[]));
        assert_eq!(
            parse("--enable threads --tier optimised --enable multi-memory"),
            task(Tier::Optimised, &[Proposal::Threads, Proposal::MultiMemory])
        );
        assert_eq!(parse("--version"), Ok(Request::Version));
        assert_eq!(parse("--cpu"), Ok(Request::Cpu));
    }

    #[test]
    fn anything_else_is_refused() {
        check_refused("", "--tier fast or --tier optimised is needed");
        check_refused("--tier", "--tier needs a value");
        check_refused(
            "--tier slow",
            "there is no tier \"slow\", only fast and optimised",
        );
        check_refused("--tier fast --enable", "--enable needs a value");
        check_refused("--tier fast --enable gc", "there is no native code for gc");
        check_refused(
            "--tier fast --enable tail-call",
            "there is no native code for tail-call",
        );
        check_refused("--tier fast --enable x", "there is no proposal \"x\" to enable");
        check_refused("--tier fast module.wasm", "there is no option \"module.wasm\"");
    }
}

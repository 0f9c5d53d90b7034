//! Proposals to WebAssembly that are on only where a module needs them and the node allows them.
//!
//! What is always on is version 2.0 of the core specification, which is what compilers for `wasm32-wasip1` write. What is not in
//! the list cannot be had: WasmEdge 0.14.1 has no native code for exception handling and garbage collection, and stops at
//! 32 bits for memories.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt;
use std::str::FromStr;

use wasmparser::WasmFeatures;

/// A proposal that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proposal {
    /// Arithmetic in the initial values of globals and segments.
    ExtendedConst,
    /// Typed references to functions.
    FunctionReferences,
    /// More than one memory.
    MultiMemory,
    /// Vector instructions whose results may differ between processors.
    RelaxedSimd,
    /// Calls that replace their caller.
    TailCall,
    /// Shared memories and atomic instructions.
    Threads,
}

impl Proposal {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ExtendedConst,
        Self::FunctionReferences,
        Self::MultiMemory,
        Self::RelaxedSimd,
        Self::TailCall,
        Self::Threads,
    ];

    /// Its name, as its repository has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExtendedConst => "extended-const",
            Self::FunctionReferences => "function-references",
            Self::MultiMemory => "multi-memory",
            Self::RelaxedSimd => "relaxed-simd",
            Self::TailCall => "tail-call",
            Self::Threads => "threads",
        }
    }

    fn feature(self) -> WasmFeatures {
        match self {
            Self::ExtendedConst => WasmFeatures::EXTENDED_CONST,
            Self::FunctionReferences => WasmFeatures::FUNCTION_REFERENCES,
            Self::MultiMemory => WasmFeatures::MULTI_MEMORY,
            Self::RelaxedSimd => WasmFeatures::RELAXED_SIMD,
            Self::TailCall => WasmFeatures::TAIL_CALL,
            Self::Threads => WasmFeatures::THREADS,
        }
    }
}

/// What a module may use with these switched on.
pub(crate) fn features(proposals: &[Proposal]) -> WasmFeatures {
    let on = proposals.iter().map(|proposal| proposal.feature());
    on.fold(WasmFeatures::WASM2, WasmFeatures::union)
}

impl fmt::Display for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is none of a proposal that can be switched on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no proposal {0:?} to enable")]
pub struct UnknownProposal(String);

impl FromStr for Proposal {
    type Err = UnknownProposal;

    fn from_str(name: &str) -> Result<Self, UnknownProposal> {
        let found = Self::ALL.into_iter().find(|proposal| proposal.name() == name);
        found.ok_or_else(|| UnknownProposal(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_that_is_read_back() {
        for proposal in Proposal::ALL {
            assert_eq!(proposal.to_string().parse(), Ok(proposal));
        }
        for name in ["gc", "memory64", "exception-handling", "Threads", ""] {
            let error = name.parse::<Proposal>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("there is no proposal {name:?} to enable")
            );
        }
    }
}

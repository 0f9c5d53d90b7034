//! Proposals to WebAssembly that are on only where a module needs them and the node allows them.
//!
//! What is always on is version 2.0 of the core specification, which is what compilers for `wasm32-wasip1` write. WasmEdge 0.14.1
//! interprets all but 64-bit memories, and has native code for some. In its native code, a call that replaces its caller does not: a guest
//! that relies on it runs out of stack.
#![warn(clippy::disallowed_methods, reason = "this module decides; it does no I/O")]

use std::fmt;
use std::str::FromStr;

use wasmparser::{Validator, WasmFeatures};

/// A proposal that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proposal {
    /// Exceptions that are thrown and caught.
    ExceptionHandling,
    /// Arithmetic in the initial values of globals and segments.
    ExtendedConst,
    /// Typed references to functions.
    FunctionReferences,
    /// Structures and arrays that the engine collects.
    Gc,
    /// Memories with addresses of 64 bits, which are recognised, and cannot be had.
    Memory64,
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
    /// All that can be switched on.
    pub const ALL: [Self; 8] = [
        Self::ExceptionHandling,
        Self::ExtendedConst,
        Self::FunctionReferences,
        Self::Gc,
        Self::MultiMemory,
        Self::RelaxedSimd,
        Self::TailCall,
        Self::Threads,
    ];

    const KNOWN: [Self; 9] = {
        let mut known = [Self::Memory64; 9];
        let mut at = 0;
        while at < Self::ALL.len() {
            known[at] = Self::ALL[at];
            at += 1;
        }
        known
    };

    /// Its name, as its repository has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExceptionHandling => "exception-handling",
            Self::ExtendedConst => "extended-const",
            Self::FunctionReferences => "function-references",
            Self::Gc => "gc",
            Self::Memory64 => "memory64",
            Self::MultiMemory => "multi-memory",
            Self::RelaxedSimd => "relaxed-simd",
            Self::TailCall => "tail-call",
            Self::Threads => "threads",
        }
    }

    /// Whether the compiler can be asked for it. Where it cannot, the module is interpreted.
    pub fn has_native_code(self) -> bool {
        !matches!(
            self,
            Self::ExceptionHandling | Self::Gc | Self::Memory64 | Self::TailCall
        )
    }

    fn feature(self) -> WasmFeatures {
        match self {
            Self::ExceptionHandling => WasmFeatures::EXCEPTIONS.union(WasmFeatures::LEGACY_EXCEPTIONS),
            Self::Gc => WasmFeatures::GC,
            Self::Memory64 => WasmFeatures::MEMORY64,
            Self::ExtendedConst => WasmFeatures::EXTENDED_CONST,
            Self::FunctionReferences => WasmFeatures::FUNCTION_REFERENCES,
            Self::MultiMemory => WasmFeatures::MULTI_MEMORY,
            Self::RelaxedSimd => WasmFeatures::RELAXED_SIMD,
            Self::TailCall => WasmFeatures::TAIL_CALL,
            Self::Threads => WasmFeatures::THREADS,
        }
    }
}

/// The proposals without which a module is not valid. None are found for one that is not valid with all of them either: it is for
/// the engine to say what is wrong with that.
pub fn needed(module: &[u8]) -> Vec<Proposal> {
    let is_valid = |features| {
        Validator::new_with_features(features)
            .validate_all(module)
            .is_ok()
    };
    if is_valid(features(&[])) || !is_valid(features(&Proposal::KNOWN)) {
        return Vec::new();
    }
    // One may come with others, so those are left out one after the other that can be.
    let mut kept = Proposal::KNOWN.to_vec();
    for proposal in Proposal::KNOWN {
        let without: Vec<_> = kept.iter().copied().filter(|other| *other != proposal).collect();
        if is_valid(features(&without)) {
            kept = without;
        }
    }
    // WasmEdge has the one as a part of the other, as its specification does.
    if kept.contains(&Proposal::Gc) && !kept.contains(&Proposal::FunctionReferences) {
        kept.push(Proposal::FunctionReferences);
    }
    kept.sort_unstable();
    kept
}

/// Their names, for people to read.
pub fn list(proposals: &[Proposal]) -> String {
    let names: Vec<_> = proposals.iter().map(|proposal| proposal.name()).collect();
    names.join(", ")
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
        for name in ["GC", "memory64", "stack-switching", "Threads", ""] {
            let error = name.parse::<Proposal>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("there is no proposal {name:?} to enable")
            );
        }
    }

    #[track_caller]
    fn check_needed(module: &str, expected: &[Proposal]) {
        let bytes = wat::parse_str(module).expect("the test's module can be parsed");
        assert_eq!(needed(&bytes), expected, "{module}");
    }

    #[test]
    fn what_a_module_needs_is_found() {
        check_needed("(module)", &[]);
        check_needed(
            "(module (memory 1) (func (drop (i8x16.splat (i32.const 1)))))",
            &[],
        );
        check_needed("(module (memory i64 1))", &[Proposal::Memory64]);
        check_needed("(module (memory 1) (memory 1))", &[Proposal::MultiMemory]);
        check_needed("(module (memory 1 1 shared))", &[Proposal::Threads]);
        check_needed("(module (func $f (return_call $f)))", &[Proposal::TailCall]);
        check_needed("(module (tag) (func (throw 0)))", &[Proposal::ExceptionHandling]);
        let sum = "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))";
        check_needed(sum, &[Proposal::ExtendedConst]);
        let typed = "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))";
        check_needed(typed, &[Proposal::FunctionReferences]);
        let relaxed = "(module (func (param v128) (drop (f32x4.relaxed_min (local.get 0) (local.get 0)))))";
        check_needed(relaxed, &[Proposal::RelaxedSimd]);
        let collected = "(module (type $s (struct (field i32))) (func (drop (struct.new_default $s))))";
        check_needed(collected, &[Proposal::FunctionReferences, Proposal::Gc]);
        let both = "(module (memory i64 1) (func $f (return_call $f)))";
        check_needed(both, &[Proposal::Memory64, Proposal::TailCall]);
    }

    #[test]
    fn what_is_valid_with_none_needs_none() {
        for bytes in [&b""[..], b"\0asm\x01\0\0\0\x0b\x01\x05", b"\x7fELF"] {
            assert_eq!(needed(bytes), []);
        }
    }
}

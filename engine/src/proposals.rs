//! WasmEdge's numbers of proposals.

use podwasm_engine::proposal::Proposal;
use wasmedge_sys::ffi;

/// What its configuration is told to switch one on.
pub fn number(proposal: Proposal) -> ffi::WasmEdge_Proposal {
    match proposal {
        Proposal::ExceptionHandling => ffi::WasmEdge_Proposal_ExceptionHandling,
        Proposal::ExtendedConst => ffi::WasmEdge_Proposal_ExtendedConst,
        Proposal::FunctionReferences => ffi::WasmEdge_Proposal_FunctionReferences,
        Proposal::Gc => ffi::WasmEdge_Proposal_GC,
        Proposal::Memory64 => ffi::WasmEdge_Proposal_Memory64,
        Proposal::MultiMemory => ffi::WasmEdge_Proposal_MultiMemories,
        Proposal::RelaxedSimd => ffi::WasmEdge_Proposal_RelaxSIMD,
        Proposal::TailCall => ffi::WasmEdge_Proposal_TailCall,
        Proposal::Threads => ffi::WasmEdge_Proposal_Threads,
    }
}

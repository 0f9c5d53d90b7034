/* What crun's WasmEdge handler does with a module, without crun: `peer MODULE [ARGUMENT...]`. The library is loaded
 * when it is needed, with all that it links, and runs the module in its interpreter, as crun has it. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <wasmedge/wasmedge.h>

static void *library;

static void *symbol(const char *name)
{
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "peer: %s\n", dlerror());
        exit(125);
    }
    return found;
}

#define FROM_LIBRARY(name) __typeof__(&name) name##_ = symbol(#name)

int main(int argc, char **argv)
{
    library = dlopen("libwasmedge.so.0", RTLD_NOW);
    if (argc < 2 || !library) {
        fprintf(stderr, "peer: %s\n", library ? "usage: peer MODULE [ARGUMENT...]" : dlerror());
        return 125;
    }
    FROM_LIBRARY(WasmEdge_ConfigureCreate);
    FROM_LIBRARY(WasmEdge_ConfigureAddProposal);
    FROM_LIBRARY(WasmEdge_ConfigureAddHostRegistration);
    FROM_LIBRARY(WasmEdge_VMCreate);
    FROM_LIBRARY(WasmEdge_VMGetImportModuleContext);
    FROM_LIBRARY(WasmEdge_ModuleInstanceInitWASI);
    FROM_LIBRARY(WasmEdge_ModuleInstanceWASIGetExitCode);
    FROM_LIBRARY(WasmEdge_VMRunWasmFromFile);
    FROM_LIBRARY(WasmEdge_StringCreateByCString);
    FROM_LIBRARY(WasmEdge_ResultOK);

    WasmEdge_ConfigureContext *configuration = WasmEdge_ConfigureCreate_();
    WasmEdge_ConfigureAddProposal_(configuration, WasmEdge_Proposal_BulkMemoryOperations);
    WasmEdge_ConfigureAddProposal_(configuration, WasmEdge_Proposal_ReferenceTypes);
    WasmEdge_ConfigureAddProposal_(configuration, WasmEdge_Proposal_SIMD);
    WasmEdge_ConfigureAddHostRegistration_(configuration, WasmEdge_HostRegistration_Wasi);
    WasmEdge_VMContext *machine = WasmEdge_VMCreate_(configuration, NULL);
    WasmEdge_ModuleInstanceContext *wasi = WasmEdge_VMGetImportModuleContext_(machine, WasmEdge_HostRegistration_Wasi);
    const char *folders[] = {"/:/"};
    WasmEdge_ModuleInstanceInitWASI_(wasi, (const char *const *)&argv[1], (uint32_t)argc - 1, NULL, 0, folders, 1);
    WasmEdge_Result result = WasmEdge_VMRunWasmFromFile_(machine, argv[1], WasmEdge_StringCreateByCString_("_start"),
                                                         NULL, 0, NULL, 0);
    return WasmEdge_ResultOK_(result) ? (int)WasmEdge_ModuleInstanceWASIGetExitCode_(wasi) : 134;
}

/* A plugin for WasmEdge, by its C interface: the host module `podwasm_test` with one function, `answer`. The number comes
 * from a library of the plugin's own, as plugins have them. */

#include <stddef.h>
#include <wasmedge/wasmedge.h>

extern int podwasm_test_answer(void);

static WasmEdge_Result answer(void *data, const WasmEdge_CallingFrameContext *frame, const WasmEdge_Value *in,
                              WasmEdge_Value *out)
{
    (void)data, (void)frame, (void)in;
    out[0] = WasmEdge_ValueGenI32(podwasm_test_answer());
    return WasmEdge_Result_Success;
}

static WasmEdge_ModuleInstanceContext *create(const WasmEdge_ModuleDescriptor *descriptor)
{
    WasmEdge_String module_name = WasmEdge_StringCreateByCString(descriptor->Name);
    WasmEdge_ModuleInstanceContext *module = WasmEdge_ModuleInstanceCreate(module_name);
    WasmEdge_StringDelete(module_name);

    WasmEdge_ValType result = WasmEdge_ValTypeGenI32();
    WasmEdge_FunctionTypeContext *type = WasmEdge_FunctionTypeCreate(NULL, 0, &result, 1);
    WasmEdge_FunctionInstanceContext *function = WasmEdge_FunctionInstanceCreate(type, answer, NULL, 0);
    WasmEdge_FunctionTypeDelete(type);
    WasmEdge_String name = WasmEdge_StringCreateByCString("answer");
    WasmEdge_ModuleInstanceAddFunction(module, name, function);
    WasmEdge_StringDelete(name);
    return module;
}

static WasmEdge_ModuleDescriptor modules[] = {
    {.Name = "podwasm_test", .Description = "knows an answer", .Create = create},
};

static WasmEdge_PluginDescriptor plugin = {
    .Name = "podwasm_test",
    .Description = "shows that plugins are loaded",
    .APIVersion = WasmEdge_Plugin_CurrentAPIVersion,
    .Version = {0, 1, 0, 0},
    .ModuleCount = 1,
    .ModuleDescriptions = modules,
};

WASMEDGE_CAPI_PLUGIN_EXPORT const WasmEdge_PluginDescriptor *WasmEdge_Plugin_GetDescriptor(void)
{
    return &plugin;
}

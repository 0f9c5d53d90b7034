/* Starts the engine for a container whose environment would steer the engine's dynamic loader.
 *
 * The plugin mounts this program over the entrypoint instead of the engine if the container's environment holds
 * variables that the loader or the C library of the engine would act on before the engine's own code runs
 * (LD_PRELOAD, GLIBC_TUNABLES, ...). They are meant for the guest: each is renamed to PODWASM_GUEST_<name>, and
 * the engine gives it its name back. Nothing else is changed.
 *
 * It is static and has no C library, so nothing in it reads the environment before it does.
 */

#include <stddef.h>
#include <sys/syscall.h>

static const char engine[] = "/.podwasm/engine";
static const char guest_prefix[] = "PODWASM_GUEST_";
static const char cannot_start[] = "podwasm: cannot start the engine: /.podwasm/engine cannot be executed\n";
static const char no_memory[] = "podwasm: cannot start the engine: out of memory\n";

/* Must hold all that the plugin looks for when it chooses between this program and the engine. */
static const char *const hidden_prefixes[] = {"GCONV_PATH=", "GLIBC_", "LD_", "LOCPATH=", "MALLOC_"};

enum { PROT_READ_WRITE = 3, MAP_PRIVATE_ANONYMOUS = 0x22, STDERR = 2, CANNOT_START = 126 };

static long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static _Noreturn void give_up(const char *message, size_t length)
{
    system_call(SYS_write, STDERR, (long)message, (long)length, 0, 0, 0);
    for (;;)
        system_call(SYS_exit_group, CANNOT_START, 0, 0, 0, 0, 0);
}

/* The length of `text`, with its zero byte. */
static size_t size_of(const char *text)
{
    size_t size = 1;
    while (*text++)
        size++;
    return size;
}

/* The end of the copy, where its zero byte is. */
static char *copy(char *to, const char *from)
{
    while ((*to = *from++))
        to++;
    return to;
}

static int starts_with(const char *text, const char *prefix)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return 0;
    return 1;
}

static int is_hidden(const char *variable)
{
    for (size_t i = 0; i < sizeof hidden_prefixes / sizeof *hidden_prefixes; i++)
        if (starts_with(variable, hidden_prefixes[i]))
            return 1;
    return 0;
}

static void hide_variables(char **environment)
{
    size_t needed = 0;
    for (char **variable = environment; *variable; variable++)
        if (is_hidden(*variable))
            needed += sizeof guest_prefix - 1 + size_of(*variable);
    if (!needed)
        return;

    long memory = system_call(SYS_mmap, 0, (long)needed, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
    if (memory < 0)
        give_up(no_memory, sizeof no_memory - 1);
    char *next = (char *)memory;
    for (char **variable = environment; *variable; variable++)
        if (is_hidden(*variable)) {
            char *renamed = next;
            next = copy(copy(next, guest_prefix), *variable) + 1;
            *variable = renamed;
        }
}

/* What the kernel puts on the stack: the number of arguments, the arguments, a null pointer, the environment, a
 * null pointer. */
__attribute__((used)) static _Noreturn void start(long *stack)
{
    char **arguments = (char **)(stack + 1);
    char **environment = arguments + *stack + 1;
    hide_variables(environment);
    system_call(SYS_execve, (long)engine, (long)arguments, (long)environment, 0, 0, 0);
    give_up(cannot_start, sizeof cannot_start - 1);
}

__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call start\n"
        "    hlt\n");

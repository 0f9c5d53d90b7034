/* A library that says so when it is loaded, and ends the process: for LD_PRELOAD, LD_AUDIT and the like, and as a
 * module that is none. It has no C library, so that nothing is missing where it is loaded. */

#include <sys/syscall.h>

static long system_call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

__attribute__((constructor)) static void hijack(void)
{
    static const char message[] = "HIJACKED\n";
    system_call(SYS_write, 2, (long)message, sizeof message - 1);
    system_call(SYS_exit_group, 99, 0, 0);
}

unsigned int la_version(unsigned int version)
{
    hijack();
    return version;
}

/* Measures how long a program runs in a root folder of its own, from before it is spawned until it is gone:
 *   spawn ROOT VARIABLE PROGRAM [ARGUMENT...]
 * VARIABLE is the environment, NAME=value or empty.
 * Its output is followed by a line with nanoseconds of time, nanoseconds of CPU time, and its wait status.
 * It is small and static, so that nothing of whoever measures has to be copied for the new process. */

#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long nanoseconds(struct timespec time)
{
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv)
{
    char *environment[] = {NULL, NULL};
    struct timespec before, after;
    struct rusage used;
    int status;

    if (argc < 4)
        errx(125, "usage: spawn ROOT VARIABLE PROGRAM [ARGUMENT...]");
    if (*argv[2])
        environment[0] = argv[2];
    clock_gettime(CLOCK_MONOTONIC, &before);
    pid_t child = vfork();
    if (!child) {
        if (chroot(argv[1]) || chdir("/"))
            _exit(125);
        execve(argv[3], argv + 3, environment);
        _exit(126);
    }
    if (child < 0 || wait4(child, &status, 0, &used) != child)
        err(125, "spawn");
    clock_gettime(CLOCK_MONOTONIC, &after);
    printf("\nspawn: %lld %lld %d\n", nanoseconds(after) - nanoseconds(before),
           (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000LL +
               (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000LL, status);
    return 0;
}

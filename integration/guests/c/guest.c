/* A WASI command with one subcommand for each thing that a test wants a guest to do.
 * Called without a subcommand, it is a hello world. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int fail(const char *what, const char *name)
{
    fprintf(stderr, "guest: cannot %s %s: %s\n", what, name, strerror(errno));
    return 1;
}

static int hello(int count, char **arguments)
{
    printf("hello from C\n");
    for (int i = 0; i < count; i++)
        printf("argv[%d]=%s\n", i, arguments[i]);
    fflush(stdout);
    fprintf(stderr, "hello on stderr\n");
    return 0;
}

static int env(void)
{
    for (char **variable = environ; variable && *variable; variable++)
        printf("%s\n", *variable);
    return 0;
}

static int cat(int from)
{
    char buffer[65536];
    ssize_t size;
    while ((size = read(from, buffer, sizeof buffer)) > 0)
        for (ssize_t at = 0, written; at < size; at += written)
            if ((written = write(STDOUT_FILENO, buffer + at, (size_t)(size - at))) < 0)
                return fail("write", "stdout");
    return size < 0 ? fail("read", "input") : 0;
}

static int cat_file(const char *path)
{
    int file = open(path, O_RDONLY);
    return file < 0 ? fail("open", path) : cat(file);
}

static int write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (!file)
        return fail("create", path);
    fputs(text, file);
    return fclose(file) ? fail("write", path) : 0;
}

/* Whether the descriptor can be read, in words that a test can compare. */
static void say_stream(int descriptor)
{
    char byte;
    printf("%d: read %s\n", descriptor, read(descriptor, &byte, 1) < 0 ? strerror(errno) : "ok");
}

/* A frame that the compiler cannot turn into a loop. */
static volatile int depth_wanted;
__attribute__((noinline)) static int recurse(int depth)
{
    volatile int mine = depth;
    if (depth == depth_wanted)
        return mine;
    return recurse(depth + 1) + mine;
}

static int deep(int depth)
{
    depth_wanted = depth;
    recurse(1);
    printf("came back from %d\n", depth);
    return 0;
}

/* Grows by 1 MiB until refused, and touches every page. */
static int grow(void)
{
    unsigned mebibytes = 0;
    for (;;) {
        size_t before = __builtin_wasm_memory_grow(0, 16);
        if (before == (size_t)-1)
            break;
        memset((char *)(before * 65536), 1, 1 << 20);
        mebibytes++;
    }
    printf("grew by %u MiB\n", mebibytes);
    return 0;
}

/* Removes a file by way of its opened folder. */
static int remove_in(const char *folder, const char *name)
{
    int opened = open(folder, O_RDONLY | O_DIRECTORY);
    if (opened < 0)
        return fail("open", folder);
    return unlinkat(opened, name, 0) ? fail("remove", name) : 0;
}

static void say(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "hello";
    const char *first = argc > 2 ? argv[2] : "", *second = argc > 3 ? argv[3] : "";
    if (!strcmp(what, "cat"))
        return *first ? cat_file(first) : cat(STDIN_FILENO);
    if (!strcmp(what, "deep"))
        return deep(atoi(first));
    if (!strcmp(what, "divide"))
        return 10 / *(volatile int *)&(int){0};
    if (!strcmp(what, "env"))
        return env();
    if (!strcmp(what, "exit"))
        return atoi(first);
    if (!strcmp(what, "grow"))
        return grow();
    if (!strcmp(what, "nap")) { /* so many milliseconds, and then this exit code */
        int milliseconds = atoi(first);
        say("napping");
        if (nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000L}, NULL))
            return fail("sleep", first);
        return atoi(second);
    }
    if (!strcmp(what, "read")) {
        say("reading");
        return cat(STDIN_FILENO);
    }
    if (!strcmp(what, "remove"))
        return remove_in(first, second);
    if (!strcmp(what, "sleep")) {
        say("sleeping");
        for (;;)
            nanosleep(&(struct timespec){.tv_sec = 3600}, NULL);
    }
    if (!strcmp(what, "spin")) {
        say("spinning");
        for (volatile unsigned i = 0;; i++)
            ;
    }
    if (!strcmp(what, "streams")) {
        for (int descriptor = 0; descriptor < 3; descriptor++)
            say_stream(descriptor);
        return 0;
    }
    if (!strcmp(what, "trap"))
        __builtin_trap();
    if (!strcmp(what, "write"))
        return write_file(first, second);
    return hello(argc, argv);
}

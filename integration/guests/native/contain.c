/* The last step into a container, as a runtime does it:
 *   contain ROOT DIRECTORY UID COUNT VARIABLE... FILE ARGUMENT0 ARGUMENT...
 * Goes into the root folder and the directory, becomes the user, and executes the file with exactly these
 * arguments and variables. It is static, so that the variables act on nothing on the way. Signals that whoever
 * started the tests ignores are heeded again. */

#define _GNU_SOURCE
#include <err.h>
#include <grp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc < 7)
        errx(125, "contain: too few arguments");
    int user = atoi(argv[3]), count = atoi(argv[4]);
    char **variables = calloc((size_t)count + 1, sizeof *variables);
    if (count < 0 || argc < 7 + count || !variables)
        errx(125, "contain: too few arguments");
    memcpy(variables, argv + 5, (size_t)count * sizeof *variables);
    if (chroot(argv[1]) || chdir(argv[2]))
        err(125, "contain: %s, %s", argv[1], argv[2]);
    if (user && (setgroups(0, NULL) || setgid((gid_t)user) || setuid((uid_t)user)))
        err(125, "contain: user %d", user);
    for (int number = 1; number <= SIGRTMAX; number++)
        signal(number, SIG_DFL);
    execve(argv[5 + count], argv + 6 + count, variables);
    err(125, "contain: %s", argv[5 + count]);
}

/* Imports what it takes to open a connection, but not the engine's name resolution, as a program that sends its own
 * questions to the server in DNS_SERVER. It says which one that is. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((import_module("wasi_snapshot_preview1"), import_name("sock_connect"))) uint32_t
    sock_connect(uint32_t socket, const void *address, uint32_t port);

int main(int argc, char **argv)
{
    const char *server = getenv("DNS_SERVER");
    printf("%s\n", server ? server : "no server");
    return argc > 1 ? (int)sock_connect((uint32_t)atoi(argv[1]), NULL, 53) : 0;
}

/* SQLite, a program of a megabyte that many have: opens a database in memory and asks it something. With the argument `sleep`
 * it then waits for its standard input to end. */

#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *question = "select sqlite_version(), sum(value) from (select 1 as value union select 2)";
    sqlite3 *database = NULL;
    sqlite3_stmt *statement = NULL;
    char byte;

    if (sqlite3_open(":memory:", &database) || sqlite3_prepare_v2(database, question, -1, &statement, NULL) ||
        sqlite3_step(statement) != SQLITE_ROW) {
        fprintf(stderr, "sqlite: %s\n", sqlite3_errmsg(database));
        return 1;
    }
    printf("SQLite %s says %d\n", (const char *)sqlite3_column_text(statement, 0), sqlite3_column_int(statement, 1));
    fflush(stdout);
    if (argc > 1 && !strcmp(argv[1], "sleep"))
        while (read(STDIN_FILENO, &byte, 1) > 0)
            ;
    return 0;
}

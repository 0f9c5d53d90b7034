/* Leaves pages of a library's tables as they are in the file, where nothing that the engine does leads to them: prune LIBRARY <DISASSEMBLY
 *
 * libwasmedge holds the linker that compiling needs, tables of names for its log in nearly every part, and much else that an engine
 * never looks at. The dynamic linker writes to all of it at each start, because it holds addresses, and each page that
 * was written to is a page less that containers share. A page is left alone, for want of its relocations, if each of them
 *
 * - is in a table that cannot be reached from what the library exports (but for compiling), from what runs when it is loaded, or from
 *   its writable data, by any address that code or tables name; or
 * - is in a table of names that no code and no table names an address of; or
 * - is a lone pointer to the functions of a buffer for messages, and only functions that log take it: the log is off for good.
 *
 * Should something be overlooked, the engine ends where it uses an address that was not made one: those in the file are below the
 * lowest that a process can have mapped. It cannot go on with something else.
 *
 * The disassembly is that of `objdump --disassemble`, which writes what an instruction refers to behind a `#`.
 */

#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, VTABLE_HEADER = 16, LEAST_NAMES = 3 };

/* What a buffer for messages is called in its type, and what writes a message to the log. */
static const char MESSAGE_BUFFER[] = "N3fmt3v1019basic_memory_bufferIcLm250ESaIcEEE";
static const char LOG[] = "<_ZN6spdlog6logger7log_it_ERKNS_7details7log_msgEbb@plt>";
/* Exports that the engine does not use, and plugins have no business with. */
static const char *const COMPILING[] = {"WasmEdge_Compiler", "WasmEdge_Driver_"};

struct addresses {
    Elf64_Addr *of;
    size_t count, room;
};

struct edge {
    Elf64_Addr from, to;
};

static const char *path;
static char *file;
static Elf64_Rela *relocations;
static size_t relocation_count;
/* Where functions and tables begin, sorted. */
static struct addresses starts;
/* From the instructions; then sorted by where they are. */
static struct edge *edges;
static size_t edge_count, edge_room;
/* Places of relocations in tables of names that nothing refers to, sorted. */
static struct addresses dead_names;
/* Functions that log, by their starts, sorted. */
static struct addresses loggers;

static const Elf64_Shdr *section(const char *name)
{
    const Elf64_Ehdr *header = (const void *)file;
    const Elf64_Shdr *sections = (const void *)(file + header->e_shoff);
    const char *names = file + sections[header->e_shstrndx].sh_offset;
    for (int i = 0; i < header->e_shnum; i++)
        if (strcmp(names + sections[i].sh_name, name) == 0)
            return &sections[i];
    errx(1, "%s has no %s", path, name);
}

static int is_in(const Elf64_Shdr *section, Elf64_Addr address)
{
    return address - section->sh_addr < section->sh_size;
}

static const char *at(const Elf64_Shdr *section, Elf64_Addr address)
{
    return file + section->sh_offset + (address - section->sh_addr);
}

static void add(struct addresses *all, Elf64_Addr address)
{
    if (all->count == all->room) {
        all->room = all->room ? all->room * 2 : 1024;
        all->of = realloc(all->of, all->room * sizeof *all->of);
        if (!all->of)
            err(1, "memory");
    }
    all->of[all->count++] = address;
}

static int compare(const void *a, const void *b)
{
    const Elf64_Addr left = *(const Elf64_Addr *)a, right = *(const Elf64_Addr *)b;
    return left < right ? -1 : left > right;
}

static void sort(struct addresses *all)
{
    size_t kept = 0;
    qsort(all->of, all->count, sizeof *all->of, compare);
    for (size_t i = 0; i < all->count; i++)
        if (!kept || all->of[kept - 1] != all->of[i])
            all->of[kept++] = all->of[i];
    all->count = kept;
}

/* How many are below an address. */
static size_t below(const struct addresses *all, Elf64_Addr address)
{
    size_t low = 0, high = all->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (all->of[middle] < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int has(const struct addresses *all, Elf64_Addr address)
{
    size_t i = below(all, address);
    return i < all->count && all->of[i] == address;
}

/* What a relocation makes of its place: an address in this library, or 0. */
static Elf64_Addr target(const Elf64_Rela *relocation)
{
    const Elf64_Sym *symbol = (const Elf64_Sym *)(file + section(".dynsym")->sh_offset) + ELF64_R_SYM(relocation->r_info);
    switch (ELF64_R_TYPE(relocation->r_info)) {
    case R_X86_64_RELATIVE:
        return (Elf64_Addr)relocation->r_addend;
    case R_X86_64_64:
        return symbol->st_value ? symbol->st_value + (Elf64_Addr)relocation->r_addend : 0;
    case R_X86_64_GLOB_DAT:
    case R_X86_64_JUMP_SLOT:
        return symbol->st_value;
    default:
        return 0;
    }
}

static int compare_relocations(const void *a, const void *b)
{
    return compare(&((const Elf64_Rela *)a)->r_offset, &((const Elf64_Rela *)b)->r_offset);
}

/* A copy of all of them, sorted by place. */
static void read_relocations(void)
{
    const Elf64_Shdr *tables[] = {section(".rela.dyn"), section(".rela.plt")};
    relocations = malloc(tables[0]->sh_size + tables[1]->sh_size);
    if (!relocations)
        err(1, "memory");
    for (int i = 0; i < 2; i++) {
        memcpy(relocations + relocation_count, file + tables[i]->sh_offset, tables[i]->sh_size);
        relocation_count += tables[i]->sh_size / sizeof *relocations;
    }
    qsort(relocations, relocation_count, sizeof *relocations, compare_relocations);
}

/* The first at this place or behind it. */
static size_t relocation_from(Elf64_Addr place)
{
    size_t low = 0, high = relocation_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (relocations[middle].r_offset < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int is_relocated(Elf64_Addr place)
{
    size_t i = relocation_from(place);
    return i < relocation_count && relocations[i].r_offset == place;
}

/* Functions begin where the table for exceptions says; each entry of a linkage table is one, and each slot of addresses a table. */
static void find_starts(void)
{
    const Elf64_Shdr *frames = section(".eh_frame_hdr"), *entries = section(".plt"), *more = section(".plt.got"), *slots = section(".got");
    const unsigned char *header = (const void *)(file + frames->sh_offset);
    uint32_t count;
    if (memcmp(header, "\x01\x1b\x03\x3b", 4) != 0)
        errx(1, "%s has another kind of .eh_frame_hdr", path);
    memcpy(&count, header + 8, sizeof count);
    for (uint32_t i = 0; i < count; i++) {
        int32_t function;
        memcpy(&function, header + 12 + 8 * (size_t)i, sizeof function);
        add(&starts, frames->sh_addr + (Elf64_Addr)(int64_t)function);
    }
    for (Elf64_Addr entry = entries->sh_addr; entry < entries->sh_addr + entries->sh_size; entry += 16)
        add(&starts, entry);
    for (Elf64_Addr entry = more->sh_addr; entry < more->sh_addr + more->sh_size; entry += 8)
        add(&starts, entry);
    for (Elf64_Addr slot = slots->sh_addr; slot < slots->sh_addr + slots->sh_size; slot += 8)
        add(&starts, slot);
    for (size_t i = 0; i < relocation_count; i++)
        if (is_in(section(".data.rel.ro"), target(&relocations[i])))
            add(&starts, target(&relocations[i]));
    const char *const begin[] = {".init", ".text", ".fini", ".rodata", ".data.rel.ro", ".dynamic", ".data", ".bss"};
    for (size_t i = 0; i < sizeof begin / sizeof *begin; i++)
        add(&starts, section(begin[i])->sh_addr);
}

static void add_edge(Elf64_Addr from, Elf64_Addr to)
{
    if (edge_count == edge_room) {
        edge_room = edge_room ? edge_room * 2 : 1 << 16;
        edges = realloc(edges, edge_room * sizeof *edges);
        if (!edges)
            err(1, "memory");
    }
    edges[edge_count++] = (struct edge){from, to};
}

/* Lines are "ADDRESS:\tINSTRUCTION", with the address of a call or jump, or "# ADDRESS" for what an operand refers to. */
static void read_disassembly(void)
{
    char line[4096];
    size_t instructions = 0;
    while (fgets(line, sizeof line, stdin)) {
        char *end, *what = strchr(line, '\t');
        Elf64_Addr place = strtoull(line, &end, 16), to;
        if (!what || *end != ':')
            continue;
        instructions++;
        char *reference = strstr(what, "# ");
        if (reference && (to = strtoull(reference + 2, NULL, 16)))
            add_edge(place, to);
        if (strstr(what, LOG))
            add(&loggers, place);
        for (char *word = strtok(what, " \t\n"); word; word = strtok(NULL, " \t\n"))
            if (*word == 'j' || strcmp(word, "call") == 0) {
                word = strtok(NULL, " \t\n");
                if (word && (to = strtoull(word, &end, 16)) && !*end)
                    add_edge(place, to);
                break;
            }
    }
    if (instructions < 100000 || loggers.count < 100)
        errx(1, "this is no disassembly of %s: %zu instructions, %zu of them log", path, instructions, loggers.count);
    for (size_t i = 0; i < edge_count; i++)
        if (is_in(section(".data.rel.ro"), edges[i].to))
            add(&starts, edges[i].to);
}

static size_t start_of(Elf64_Addr address)
{
    size_t i = below(&starts, address + 1);
    if (!i)
        errx(1, "%s: nothing begins before %#lx", path, address);
    return i - 1;
}

static int compare_edges(const void *a, const void *b)
{
    return compare(&((const struct edge *)a)->from, &((const struct edge *)b)->from);
}

/* Whether a name of just this length is what the pointer at this place leads to, and the length stands before it. */
static int is_name(Elf64_Addr place)
{
    const Elf64_Shdr *tables = section(".data.rel.ro"), *strings = section(".rodata");
    Elf64_Addr name;
    uint64_t length;
    if (!is_relocated(place) || !is_in(tables, place - 8) || !is_in(tables, place))
        return 0;
    name = target(&relocations[relocation_from(place)]);
    memcpy(&length, at(tables, place - 8), sizeof length);
    return is_in(strings, name) && is_in(strings, name + length) && strlen(at(strings, name)) == length;
}

/* Tables of names, with or without a number before each. */
static void find_dead_names(const struct addresses *referred)
{
    const Elf64_Shdr *tables = section(".data.rel.ro");
    for (size_t i = relocation_from(tables->sh_addr); i < relocation_count && is_in(tables, relocations[i].r_offset);) {
        Elf64_Addr first = relocations[i].r_offset, last = first;
        size_t names = is_name(first);
        while (names && (is_name(last + 24) || is_name(last + 16))) {
            last += is_name(last + 24) ? 24 : 16;
            names++;
        }
        size_t next = relocation_from(last + 1);
        /* With room for a number before the first. Where one refers to the end, it means what begins there. */
        if (names >= LEAST_NAMES && below(referred, first - 16) == below(referred, last + 8))
            for (size_t j = i; j < next; j++)
                add(&dead_names, relocations[j].r_offset);
        if (names >= LEAST_NAMES) {
            add(&starts, first - 16);
            add(&starts, last + 8);
        }
        i = next;
    }
    sort(&dead_names);
}

/* The functions of the class that has this name, or 0. */
static Elf64_Addr functions_of(const char *name)
{
    const Elf64_Shdr *strings = section(".rodata");
    const char *found = memmem(file + strings->sh_offset, strings->sh_size, name, strlen(name) + 1);
    if (!found)
        errx(1, "%s has no class %s", path, name);
    Elf64_Addr place = strings->sh_addr + (Elf64_Addr)(found - (file + strings->sh_offset)), type = 0;
    for (size_t i = 0; i < relocation_count; i++)
        if (target(&relocations[i]) == place)
            type = relocations[i].r_offset - 8;
    for (size_t i = 0; type && i < relocation_count; i++)
        if (target(&relocations[i]) == type)
            return relocations[i].r_offset + 8;
    errx(1, "%s: nothing is known of the class %s", path, name);
}

/* Whether this is a lone pointer to the functions, which none but functions that log refer to. */
static int is_for_messages(const Elf64_Rela *relocation, Elf64_Addr functions)
{
    if (target(relocation) != functions || !has(&starts, relocation->r_offset))
        return 0;
    for (size_t i = 0; i < relocation_count; i++)
        if (target(&relocations[i]) == relocation->r_offset)
            return 0;
    for (size_t i = 0; i < edge_count; i++)
        if (edges[i].to == relocation->r_offset && !has(&loggers, starts.of[start_of(edges[i].from)]))
            return 0;
    return 1;
}

static void reach(char *reached, struct addresses *left, Elf64_Addr address)
{
    const char *const where[] = {".init", ".plt", ".plt.got", ".text", ".fini", ".data.rel.ro", ".got"};
    for (size_t i = 0; i < sizeof where / sizeof *where; i++)
        if (is_in(section(where[i]), address) && !reached[start_of(address)]) {
            reached[start_of(address)] = 1;
            add(left, starts.of[start_of(address)]);
        }
}

static int is_compiling(const char *name)
{
    for (size_t i = 0; i < sizeof COMPILING / sizeof *COMPILING; i++)
        if (strncmp(name, COMPILING[i], strlen(COMPILING[i])) == 0)
            return 1;
    return 0;
}

static void reach_roots(char *reached, struct addresses *left)
{
    const Elf64_Shdr *table = section(".dynsym"), *strings = section(".dynstr");
    const Elf64_Sym *symbols = (const void *)(file + table->sh_offset);
    for (size_t i = 1; i < table->sh_size / sizeof *symbols; i++)
        if (symbols[i].st_shndx != SHN_UNDEF && !is_compiling(file + strings->sh_offset + symbols[i].st_name))
            reach(reached, left, symbols[i].st_value);
    const char *const written[] = {".init_array", ".fini_array", ".data"};
    for (size_t i = 0; i < relocation_count; i++)
        for (size_t j = 0; j < sizeof written / sizeof *written; j++)
            if (is_in(section(written[j]), relocations[i].r_offset))
                reach(reached, left, target(&relocations[i]));
    reach(reached, left, section(".init")->sh_addr);
    reach(reached, left, section(".fini")->sh_addr);
}

static size_t edge_from(Elf64_Addr place)
{
    size_t low = 0, high = edge_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (edges[middle].from < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Which pages have a relocation that something leads to, counted from the first page of the tables. */
static void mark_live(char *live)
{
    const Elf64_Shdr *tables = section(".data.rel.ro");
    struct addresses left = {0};
    char *reached = calloc(starts.count, 1);
    Elf64_Addr functions = functions_of(MESSAGE_BUFFER);
    if (!reached)
        err(1, "memory");
    reach_roots(reached, &left);
    while (left.count) {
        Elf64_Addr start = left.of[--left.count];
        size_t next = start_of(start) + 1;
        Elf64_Addr end = next < starts.count ? starts.of[next] : start + 8;
        if (is_in(tables, start)) {
            /* A table of functions is referred to behind what stands before the first. */
            for (size_t i = relocation_from(start - VTABLE_HEADER); i < relocation_count && relocations[i].r_offset < end; i++) {
                if (has(&dead_names, relocations[i].r_offset) || !is_in(tables, relocations[i].r_offset))
                    continue;
                if (!is_for_messages(&relocations[i], functions))
                    live[(relocations[i].r_offset - tables->sh_addr / PAGE * PAGE) / PAGE] = 1;
                reach(reached, &left, target(&relocations[i]));
            }
        } else if (is_relocated(start)) {
            reach(reached, &left, target(&relocations[relocation_from(start)]));
        } else {
            for (size_t i = edge_from(start); i < edge_count && edges[i].from < end; i++)
                reach(reached, &left, edges[i].to);
        }
    }
}

static Elf64_Dyn *entry(Elf64_Sxword tag)
{
    for (Elf64_Dyn *entry = (void *)(file + section(".dynamic")->sh_offset); entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == tag)
            return entry;
    errx(1, "%s has no entry %ld", path, tag);
}

/* Takes out the relocations of the pages that lie whole in the tables and are not live. */
static void prune(const char *live)
{
    const Elf64_Shdr *tables = section(".data.rel.ro"), *table = section(".rela.dyn");
    Elf64_Rela *all = (void *)(file + table->sh_offset), *kept = all;
    size_t count = table->sh_size / sizeof *all, relative = 0, pages = 0;
    Elf64_Addr first = tables->sh_addr / PAGE * PAGE, begin = first + (first < tables->sh_addr ? PAGE : 0);
    Elf64_Addr end = (tables->sh_addr + tables->sh_size) / PAGE * PAGE;
    for (size_t i = 0; i < count; i++) {
        Elf64_Addr place = all[i].r_offset;
        if (place >= begin && place < end && !live[(place - first) / PAGE])
            continue;
        relative += ELF64_R_TYPE(all[i].r_info) == R_X86_64_RELATIVE;
        *kept++ = all[i];
    }
    for (Elf64_Addr page = begin; page < end; page += PAGE)
        pages += !live[(page - first) / PAGE];
    entry(DT_RELASZ)->d_un.d_val = (Elf64_Xword)(kept - all) * sizeof *all;
    entry(DT_RELACOUNT)->d_un.d_val = relative;
    printf("prune: %zu of %zu pages of tables stay as they are, without %zu relocations\n", pages, (size_t)((end - begin) / PAGE),
           count - (size_t)(kept - all));
}

int main(int count, char **arguments)
{
    struct stat status;
    if (count != 2)
        errx(1, "usage: prune LIBRARY <DISASSEMBLY");
    path = arguments[1];
    int descriptor = open(path, O_RDWR);
    if (descriptor < 0 || fstat(descriptor, &status) < 0)
        err(1, "%s", path);
    file = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (file == MAP_FAILED)
        err(1, "%s", path);
    read_relocations();
    find_starts();
    read_disassembly();
    struct addresses referred = {0};
    for (size_t i = 0; i < edge_count; i++)
        add(&referred, edges[i].to);
    for (size_t i = 0; i < relocation_count; i++)
        add(&referred, target(&relocations[i]));
    sort(&referred);
    qsort(edges, edge_count, sizeof *edges, compare_edges);
    find_dead_names(&referred);
    sort(&starts);
    for (size_t i = 0; i < loggers.count; i++)
        loggers.of[i] = starts.of[start_of(loggers.of[i])];
    sort(&loggers);
    char *live = calloc(section(".data.rel.ro")->sh_size / PAGE + 2, 1);
    if (!live)
        err(1, "memory");
    mark_live(live);
    prune(live);
    return 0;
}

/* Looks up at build time what the dynamic linker would look up at each start: prelink LIBRARY... -- ABSENT...
 *
 * The libraries of the bundle are a closed set, and most of what they ask the dynamic linker for they have themselves: it could
 * be another's, so the linker searches all of them, in order, each time. The libraries are given in that order, the
 * program first. Where none before a library defines a name that it defines itself, the relocation becomes one
 * that needs no search. What is found is what the dynamic linker would have found.
 *
 * Left alone: what other libraries have, thread-local and unique symbols, functions that are chosen at run time, and tables that are
 * searched when they are used.
 *
 * Behind `--` are libraries that are not in the bundle, because nothing in it uses what is asked of them. They are needed no more:
 * a function of theirs that is called all the same ends the process with `abort`, and the address of anything else is null.
 */

#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_LIBRARIES = 64 };

struct library {
    const char *path;
    char *file;
    Elf64_Dyn *dynamic;
    Elf64_Sym *symbols;
    size_t symbol_count;
    const char *names;
};

/* Both end with one that has no path. */
static struct library libraries[MOST_LIBRARIES + 1], absent[MOST_LIBRARIES + 1];

/* The place in the file of an address in memory. */
static void *at(const struct library *library, Elf64_Addr address)
{
    const Elf64_Ehdr *header = (const void *)library->file;
    const Elf64_Phdr *segment = (const void *)(library->file + header->e_phoff);
    for (int i = 0; i < header->e_phnum; i++, segment++)
        if (segment->p_type == PT_LOAD && address - segment->p_vaddr < segment->p_filesz)
            return library->file + segment->p_offset + (address - segment->p_vaddr);
    errx(1, "%s: nothing at %#lx", library->path, address);
}

static Elf64_Dyn *find_entry(const struct library *library, Elf64_Sxword tag)
{
    for (Elf64_Dyn *entry = library->dynamic; entry->d_tag != DT_NULL; entry++)
        if (entry->d_tag == tag)
            return entry;
    return NULL;
}

static Elf64_Xword value(const struct library *library, Elf64_Sxword tag)
{
    const Elf64_Dyn *entry = find_entry(library, tag);
    return entry ? entry->d_un.d_val : 0;
}

static void open_library(struct library *library, const char *path, int mode)
{
    struct stat status;
    int descriptor = open(path, mode);
    if (descriptor < 0 || fstat(descriptor, &status) < 0)
        err(1, "%s", path);
    library->path = path;
    library->file = mmap(NULL, (size_t)status.st_size, PROT_READ | (mode == O_RDWR ? PROT_WRITE : 0),
                         MAP_SHARED, descriptor, 0);
    if (library->file == MAP_FAILED)
        err(1, "%s", path);
    close(descriptor);
    const Elf64_Ehdr *header = (const void *)library->file;
    const Elf64_Shdr *section = (const void *)(library->file + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++, section++) {
        if (section->sh_type == SHT_DYNAMIC)
            library->dynamic = (void *)(library->file + section->sh_offset);
        if (section->sh_type == SHT_DYNSYM)
            library->symbol_count = section->sh_size / sizeof(Elf64_Sym);
    }
    if (!library->dynamic || !library->symbol_count)
        errx(1, "%s is no library", path);
    library->symbols = at(library, value(library, DT_SYMTAB));
    library->names = at(library, value(library, DT_STRTAB));
}

static int defines(const struct library *library, const char *name)
{
    for (size_t i = 1; i < library->symbol_count; i++) {
        const Elf64_Sym *symbol = &library->symbols[i];
        if (symbol->st_shndx != SHN_UNDEF && strcmp(library->names + symbol->st_name, name) == 0)
            return 1;
    }
    return 0;
}

static int is_own(const struct library *library, const Elf64_Sym *symbol)
{
    int binding = ELF64_ST_BIND(symbol->st_info), type = ELF64_ST_TYPE(symbol->st_info);
    if (symbol->st_shndx == SHN_UNDEF || symbol->st_shndx >= SHN_LORESERVE)
        return 0;
    if ((binding != STB_GLOBAL && binding != STB_WEAK) || (type != STT_FUNC && type != STT_OBJECT))
        return 0;
    for (const struct library *before = libraries; before < library; before++)
        if (defines(before, library->names + symbol->st_name))
            return 0;
    return 1;
}

static int is_defined_by_any(const struct library *all, const char *name)
{
    for (const struct library *library = all; library->path; library++)
        if (defines(library, name))
            return 1;
    return 0;
}

static int is_absent(const struct library *library, const Elf64_Sym *symbol)
{
    const char *name = library->names + symbol->st_name;
    return symbol->st_shndx == SHN_UNDEF && *name && is_defined_by_any(absent, name) && !is_defined_by_any(libraries, name);
}

/* Where the procedure linkage table calls a function. It begins with an entry of its own, and has as many as there are slots. */
static Elf64_Addr call_of(const struct library *library, const char *name)
{
    const Elf64_Rela *slots = at(library, value(library, DT_JMPREL));
    Elf64_Addr slot = 0;
    for (size_t i = 0; i < value(library, DT_PLTRELSZ) / sizeof *slots; i++)
        if (strcmp(library->names + library->symbols[ELF64_R_SYM(slots[i].r_info)].st_name, name) == 0)
            slot = slots[i].r_offset;
    const Elf64_Ehdr *header = (const void *)library->file;
    const Elf64_Shdr *section = (const void *)(library->file + header->e_shoff);
    const char *section_names = library->file + section[header->e_shstrndx].sh_offset;
    for (int i = 0; i < header->e_shnum; i++, section++)
        if (strcmp(section_names + section->sh_name, ".plt") == 0)
            for (Elf64_Addr entry = section->sh_addr + 16; entry < section->sh_addr + section->sh_size; entry += 16) {
                const unsigned char *code = at(library, entry);
                int32_t distance;
                memcpy(&distance, code + 2, sizeof distance);
                /* jmp *distance(%rip) */
                if (code[0] == 0xff && code[1] == 0x25 && entry + 6 + (Elf64_Addr)(int64_t)distance == slot)
                    return entry;
            }
    errx(1, "%s does not call %s", library->path, name);
}

/* How many relocations need no search now. */
static size_t settle(const struct library *library, Elf64_Rela *relocations, size_t count)
{
    size_t settled = 0;
    for (size_t i = 0; i < count; i++) {
        Elf64_Rela *relocation = &relocations[i];
        Elf64_Xword type = ELF64_R_TYPE(relocation->r_info);
        const Elf64_Sym *symbol = &library->symbols[ELF64_R_SYM(relocation->r_info)];
        if (is_absent(library, symbol)) {
            int is_call = type == R_X86_64_JUMP_SLOT;
            relocation->r_info = ELF64_R_INFO(0, is_call ? R_X86_64_RELATIVE : R_X86_64_NONE);
            relocation->r_addend = is_call ? (Elf64_Sxword)call_of(library, "abort") : 0;
            settled++;
            continue;
        }
        if ((type == R_X86_64_64 || type == R_X86_64_GLOB_DAT || type == R_X86_64_JUMP_SLOT) && is_own(library, symbol)) {
            Elf64_Sxword addend = type == R_X86_64_64 ? relocation->r_addend : 0;
            relocation->r_info = ELF64_R_INFO(0, R_X86_64_RELATIVE);
            relocation->r_addend = (Elf64_Sxword)symbol->st_value + addend;
            settled++;
        }
    }
    return settled;
}

static int compare(const void *a, const void *b)
{
    const Elf64_Rela *left = a, *right = b;
    int left_relative = ELF64_R_TYPE(left->r_info) == R_X86_64_RELATIVE;
    int right_relative = ELF64_R_TYPE(right->r_info) == R_X86_64_RELATIVE;
    if (left_relative != right_relative)
        return right_relative - left_relative;
    /* Those that need a search stay together by symbol, for the linker's memory of the last one. */
    if (!left_relative && ELF64_R_SYM(left->r_info) != ELF64_R_SYM(right->r_info))
        return ELF64_R_SYM(left->r_info) < ELF64_R_SYM(right->r_info) ? -1 : 1;
    return left->r_offset < right->r_offset ? -1 : left->r_offset > right->r_offset;
}

static size_t prelink(const struct library *library)
{
    size_t settled = 0;
    if (value(library, DT_RELA)) {
        size_t count = value(library, DT_RELASZ) / sizeof(Elf64_Rela), relative = 0;
        Elf64_Rela *relocations = at(library, value(library, DT_RELA));
        Elf64_Dyn *relative_count = find_entry(library, DT_RELACOUNT);
        settled += settle(library, relocations, count);
        qsort(relocations, count, sizeof *relocations, compare);
        while (relative < count && ELF64_R_TYPE(relocations[relative].r_info) == R_X86_64_RELATIVE)
            relative++;
        if (relative_count)
            relative_count->d_un.d_val = relative;
    }
    /* Where they are searched when they are used, the linker expects them as they are. */
    if (value(library, DT_JMPREL) && (value(library, DT_FLAGS) & DF_BIND_NOW))
        settled += settle(library, at(library, value(library, DT_JMPREL)), value(library, DT_PLTRELSZ) / sizeof(Elf64_Rela));
    return settled;
}

static int is_absent_library(const char *name)
{
    for (const struct library *library = absent; library->path; library++)
        if (strcmp(library->names + value(library, DT_SONAME), name) == 0)
            return 1;
    return 0;
}

/* Takes the absent libraries out of the list of those that are loaded. */
static void drop_needed(const struct library *library)
{
    Elf64_Dyn *kept = library->dynamic;
    for (const Elf64_Dyn *entry = library->dynamic;; entry++) {
        if (entry->d_tag == DT_NEEDED && is_absent_library(library->names + entry->d_un.d_val))
            continue;
        *kept++ = *entry;
        if (entry->d_tag == DT_NULL)
            return;
    }
}

/* And out of the list of those whose versions are compared. */
static void drop_versions(const struct library *library)
{
    Elf64_Dyn *count = find_entry(library, DT_VERNEEDNUM), *first = find_entry(library, DT_VERNEED);
    if (!count || !first)
        return;
    Elf64_Verneed *before = NULL, *entry = at(library, first->d_un.d_ptr);
    for (Elf64_Xword left = count->d_un.d_val; left > 0; left--) {
        Elf64_Verneed *next = (void *)((char *)entry + entry->vn_next);
        if (!is_absent_library(library->names + entry->vn_file)) {
            before = entry;
        } else {
            count->d_un.d_val--;
            if (!before)
                first->d_un.d_ptr += entry->vn_next;
            else if (entry->vn_next)
                before->vn_next += entry->vn_next;
            else
                before->vn_next = 0;
        }
        entry = next;
    }
}

int main(int count, char **paths)
{
    size_t settled = 0;
    int libraries_end = 1;
    if (count - 1 > MOST_LIBRARIES)
        errx(1, "more than %d libraries", MOST_LIBRARIES);
    for (; libraries_end < count && strcmp(paths[libraries_end], "--"); libraries_end++)
        open_library(&libraries[libraries_end - 1], paths[libraries_end], O_RDWR);
    for (int i = libraries_end + 1; i < count; i++)
        open_library(&absent[i - libraries_end - 1], paths[i], O_RDONLY);
    for (const struct library *library = libraries; library->path; library++) {
        settled += prelink(library);
        drop_needed(library);
        drop_versions(library);
    }
    dprintf(1, "prelink: %zu relocations need no search\n", settled);
    return 0;
}

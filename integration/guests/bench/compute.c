/* Work for a processor, the same for native code and for WebAssembly: `compute KIND ROUNDS` prints a checksum.
 * A round is up to a millisecond or two of native code; the same ROUNDS have the same checksum everywhere, and for no
 * rounds all is made ready. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state = 0x9e3779b97f4a7c15;

static uint64_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t mix(uint64_t sum, uint64_t value)
{
    return (sum ^ value) * 0x100000001b3;
}

static void *allocate(size_t bytes)
{
    void *memory = calloc(1, bytes);
    if (!memory) {
        fprintf(stderr, "compute: no memory\n");
        exit(1);
    }
    return memory;
}

/* --- integer: queens by bits, and the steps of Collatz' sequences --- */

static unsigned queens(unsigned all, unsigned columns, unsigned left, unsigned right)
{
    unsigned found = 0;
    if (columns == all)
        return 1;
    for (unsigned free = all & ~(columns | left | right); free;) {
        unsigned bit = free & -free;
        free ^= bit;
        found += queens(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return found;
}

static uint64_t integer(unsigned round, uint64_t sum)
{
    for (uint64_t start = 1 + round * 1000; start <= (round + 1) * 1000; start++) {
        uint64_t steps = 0;
        for (uint64_t value = start; value != 1; steps++)
            value = value % 2 ? 3 * value + 1 : value / 2;
        sum = mix(sum, steps);
    }
    return mix(sum, queens(255 | (round % 2) << 8, 0, 0, 0));
}

/* --- float: planets, and Mandelbrot's set; operations that IEEE 754 defines to the bit --- */

struct body {
    double place[3], speed[3], mass;
};

static struct body bodies[5] = {
    {{0, 0, 0}, {0, 0, 0}, 39.5},
    {{4.8, -1.2, -0.1}, {0.6, 2.8, -0.02}, 0.038},
    {{8.3, 4.1, -0.4}, {-1.0, 1.8, 0.008}, 0.011},
    {{12.9, -15.1, -0.2}, {1.1, 0.9, -0.01}, 0.0017},
    {{15.4, -25.9, 0.2}, {1.0, 0.6, -0.03}, 0.002},
};

static void advance(double step)
{
    for (int i = 0; i < 5; i++)
        for (int j = i + 1; j < 5; j++) {
            double apart[3], square = 0;
            for (int axis = 0; axis < 3; axis++) {
                apart[axis] = bodies[i].place[axis] - bodies[j].place[axis];
                square += apart[axis] * apart[axis];
            }
            double pull = step / (square * sqrt(square));
            for (int axis = 0; axis < 3; axis++) {
                bodies[i].speed[axis] -= apart[axis] * bodies[j].mass * pull;
                bodies[j].speed[axis] += apart[axis] * bodies[i].mass * pull;
            }
        }
    for (int i = 0; i < 5; i++)
        for (int axis = 0; axis < 3; axis++)
            bodies[i].place[axis] += step * bodies[i].speed[axis];
}

static uint64_t float_(unsigned round, uint64_t sum)
{
    for (int step = 0; step < 4000; step++)
        advance(0.001);
    double imaginary = (round % 100) / 50.0 - 1;
    for (int column = 0; column < 100; column++) {
        double real = column / 50.0 - 1.5, x = 0, y = 0;
        unsigned steps = 0;
        for (; steps < 1000 && x * x + y * y < 4; steps++) {
            double old = x;
            x = x * x - y * y + real;
            y = 2 * old * y + imaginary;
        }
        sum = mix(sum, steps);
    }
    uint64_t bits;
    memcpy(&bits, &bodies[0].place[0], sizeof bits);
    return mix(sum, bits);
}

/* --- memory: a hash table of 32 MiB that is written and read at random --- */

enum { SLOTS = 1 << 21 };

static struct slot {
    uint64_t key, value;
} *slots;

/* The kernel's part, which is no guest's work: a page is there once it has been written to. */
static void make_slots(void)
{
    slots = allocate(SLOTS * sizeof *slots);
    for (unsigned at = 0; at < SLOTS; at += 4096 / sizeof *slots)
        slots[at].value = 1;
}

static uint64_t memory(unsigned round, uint64_t sum)
{
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t key = next_random() % SLOTS / 2 + 1, at = key * 0x9e3779b97f4a7c15 >> 43;
        while (slots[at].key && slots[at].key != key)
            at = (at + 1) % SLOTS;
        slots[at].key = key;
        slots[at].value += i + round;
        sum = mix(sum, slots[at].value);
    }
    return sum;
}

/* --- string: words are made, joined to a text, split, counted and sorted --- */

struct word {
    char *text;
    unsigned count;
    struct word *next;
};

static char *make_text(unsigned words)
{
    static const char *parts[] = {"wa", "sm", "ed", "ge", "po", "ds", "ku", "be", "let", "run", "con", "tain"};
    char *text = allocate(words * 16 + 1), *end = text;
    while (words--) {
        uint64_t random = next_random();
        for (unsigned part = 0, count = 1 + random % 3; part < count; part++) {
            const char *chosen = parts[(random >> (8 + 8 * part)) % 12];
            end = stpcpy(end, chosen);
        }
        if (random >> 60 == 0)
            end += sprintf(end, "%u", (unsigned)(random >> 40) % 1000);
        *end++ = random >> 59 & 1 ? ' ' : '\n';
    }
    *end = 0;
    return text;
}

static int by_text(const void *left, const void *right)
{
    return strcmp((*(struct word *const *)left)->text, (*(struct word *const *)right)->text);
}

static uint64_t string(unsigned round, uint64_t sum)
{
    enum { BUCKETS = 1024, WORDS = 6000 };
    struct word *buckets[BUCKETS] = {0}, **sorted = allocate(WORDS * sizeof *sorted);
    char *text = make_text(WORDS), *end = text;
    unsigned different = 0;
    while (*end) {
        char *word = end;
        unsigned hash = round;
        for (; *end != ' ' && *end != '\n'; end++) {
            if (*end >= 'a' && *end <= 'z')
                *end -= 'a' - 'A';
            hash = hash * 31 + (unsigned char)*end;
        }
        *end++ = 0;
        struct word **place = &buckets[hash % BUCKETS];
        while (*place && strcmp((*place)->text, word))
            place = &(*place)->next;
        if (!*place) {
            *place = allocate(sizeof **place);
            (*place)->text = strdup(word);
            sorted[different++] = *place;
        }
        (*place)->count++;
    }
    qsort(sorted, different, sizeof *sorted, by_text);
    for (unsigned i = 0; i < different; i++) {
        for (char *letter = sorted[i]->text; *letter; letter++)
            sum = mix(sum, (unsigned char)*letter);
        sum = mix(sum, sorted[i]->count);
        free(sorted[i]->text);
        free(sorted[i]);
    }
    free(sorted);
    free(text);
    return sum;
}

/* --- json: a document is written, read into a tree, and the tree is written again --- */

struct value {
    enum { NUMBER, STRING, LIST, OBJECT } kind;
    long number;
    char *text, *name;
    struct value *first, *next;
};

static char *put_string(char *end, const char *text)
{
    *end++ = '"';
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            *end++ = '\\';
        *end++ = *text;
    }
    *end++ = '"';
    return end;
}

static char *make_document(unsigned records)
{
    char *document = allocate(records * 160 + 3), *end = document;
    *end++ = '[';
    for (unsigned i = 0; i < records; i++) {
        uint64_t random = next_random();
        if (i)
            *end++ = ',';
        end += sprintf(end, "{\"id\":%u,\"name\":\"pod-%x\",\"labels\":{\"app\":\"a \\\"quoted\\\" word\",\"tier\":\"%s\"},"
                       "\"ports\":[%u,%u,%u]}", i, (unsigned)(random >> 32), random & 1 ? "front" : "back",
                       (unsigned)random % 65536, (unsigned)(random >> 16) % 65536, (unsigned)(random >> 24) % 65536);
    }
    *end++ = ']';
    *end = 0;
    return document;
}

static char *read_string(const char **at)
{
    const char *start = ++*at;
    size_t length = 0;
    for (; **at != '"'; ++*at, length++)
        *at += **at == '\\';
    char *text = allocate(length + 1), *end = text;
    for (const char *from = start; from < *at; from++)
        *end++ = *(from += *from == '\\');
    ++*at;
    return text;
}

static struct value *read_value(const char **at)
{
    struct value *value = allocate(sizeof *value), **last = &value->first;
    if (**at == '"') {
        value->kind = STRING;
        value->text = read_string(at);
    } else if (**at == '[' || **at == '{') {
        char close = **at == '[' ? ']' : '}';
        value->kind = **at == '[' ? LIST : OBJECT;
        for (++*at; **at != close; *at += **at == ',') {
            char *name = value->kind == OBJECT ? read_string(at) : NULL;
            *at += name != NULL;
            *last = read_value(at);
            (*last)->name = name;
            last = &(*last)->next;
        }
        ++*at;
    } else {
        char *end;
        value->kind = NUMBER;
        value->number = strtol(*at, &end, 10);
        *at = end;
    }
    return value;
}

static char *write_value(char *end, const struct value *value)
{
    if (value->kind == STRING)
        return put_string(end, value->text);
    if (value->kind == NUMBER)
        return end + sprintf(end, "%ld", value->number);
    *end++ = value->kind == LIST ? '[' : '{';
    for (const struct value *member = value->first; member; member = member->next) {
        if (value->kind == OBJECT) {
            end = put_string(end, member->name);
            *end++ = ':';
        }
        end = write_value(end, member);
        if (member->next)
            *end++ = ',';
    }
    *end++ = value->kind == LIST ? ']' : '}';
    return end;
}

static void free_value(struct value *value)
{
    while (value) {
        struct value *next = value->next;
        free_value(value->first);
        free(value->text);
        free(value->name);
        free(value);
        value = next;
    }
}

static uint64_t json(unsigned round, uint64_t sum)
{
    enum { RECORDS = 300 };
    char *document = make_document(RECORDS), *again = allocate(RECORDS * 200);
    const char *at = document;
    struct value *tree = read_value(&at);
    char *end = write_value(again, tree);
    for (char *byte = again; byte < end; byte++)
        sum = mix(sum, (unsigned char)*byte + round);
    free_value(tree);
    free(again);
    free(document);
    return sum;
}

/* --- hash: SHA-256 over 256 KiB, round after round --- */

static const uint32_t constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static uint32_t digest[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static uint32_t rotate(uint32_t word, int bits)
{
    return word >> bits | word << (32 - bits);
}

static void take_block(const unsigned char *block)
{
    uint32_t words[64], now[8];
    for (int i = 0; i < 16; i++, block += 4)
        words[i] = (uint32_t)block[0] << 24 | block[1] << 16 | block[2] << 8 | block[3];
    for (int i = 16; i < 64; i++) {
        uint32_t old = words[i - 15], late = words[i - 2];
        words[i] = words[i - 16] + words[i - 7] + (rotate(old, 7) ^ rotate(old, 18) ^ old >> 3) +
                   (rotate(late, 17) ^ rotate(late, 19) ^ late >> 10);
    }
    memcpy(now, digest, sizeof now);
    for (int i = 0; i < 64; i++) {
        uint32_t a = now[0], e = now[4];
        uint32_t one = now[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & now[5]) ^ (~e & now[6])) +
                       constants[i] + words[i];
        uint32_t two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & now[1]) ^ (a & now[2]) ^ (now[1] & now[2]));
        memmove(now + 1, now, 7 * sizeof *now);
        now[4] += one;
        now[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        digest[i] += now[i];
}

static uint64_t hash(unsigned round, uint64_t sum)
{
    static unsigned char data[256 << 10];
    data[round % sizeof data]++;
    for (size_t at = 0; at < sizeof data; at += 64)
        take_block(data + at);
    return mix(sum, (uint64_t)digest[0] << 32 | digest[7]);
}

static const struct {
    const char *name;
    uint64_t (*run)(unsigned round, uint64_t sum);
    void (*prepare)(void);
} kinds[] = {
    {"float", float_, NULL}, {"hash", hash, NULL},           {"integer", integer, NULL},
    {"json", json, NULL},    {"memory", memory, make_slots}, {"string", string, NULL},
};

int main(int argc, char **argv)
{
    for (size_t kind = 0; argc == 3 && kind < sizeof kinds / sizeof *kinds; kind++)
        if (!strcmp(kinds[kind].name, argv[1])) {
            uint64_t sum = 0xcbf29ce484222325;
            if (kinds[kind].prepare)
                kinds[kind].prepare();
            for (unsigned round = 0, rounds = (unsigned)atoi(argv[2]); round < rounds; round++)
                sum = kinds[kind].run(round, sum);
            printf("%016llx\n", (unsigned long long)sum);
            return 0;
        }
    fprintf(stderr, "usage: compute float|hash|integer|json|memory|string ROUNDS\n");
    return 2;
}

// Which packets a pod receives have to be looked at: those that begin or end a connection, and those with data for a port on
// which the pod listens, unless the data are known to be of no interest. What cannot be told here is let through.
//
// Nothing is counted here. The program is run for each packet, before anyone else in the pod sees it.

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*const load_bytes)(const void *skb, __u32 offset, void *to, __u32 length) = (void *)BPF_FUNC_skb_load_bytes;

struct map {
    unsigned int type, key_size, value_size, max_entries, flags;
};

// A connection, in the direction to the pod. Numbers are as they are in packets.
struct flow {
    __u32 from[4], to[4];
    __be16 from_port, to_port;
};

// The bytes of a connection that need not be looked at: `length` of them from number `start` on.
struct span {
    __u32 start, length;
};

// Filled by the exporter.
struct map SEC("maps") skipped = {
    .type = BPF_MAP_TYPE_HASH,
    .key_size = sizeof(struct flow),
    .value_size = sizeof(struct span),
    .max_entries = 1024,
    .flags = BPF_F_NO_PREALLOC,
};

// A bit for each port on which the pod listens: first those to which a connection was seen to begin, then those that the exporter
// has found. Once it has looked, it sets the last word; until then all ports are taken for such.
enum { WORDS = 65536 / 64 };
struct map SEC("maps") listening = {
    .type = BPF_MAP_TYPE_ARRAY,
    .key_size = sizeof(__u32),
    .value_size = sizeof(__u64),
    .max_entries = 2 * WORDS + 1,
};

struct ipv4 {
    __u8 version_length, tos;
    __be16 total_length, id, fragment;
    __u8 ttl, protocol;
    __be16 checksum;
    __u32 from, to;
};

struct ipv6 {
    __be32 version;
    __be16 payload_length;
    __u8 next_header, hop_limit;
    __u32 from[4], to[4];
};

struct tcp {
    __be16 from, to;
    __be32 sequence, acknowledged;
    __u8 length, flags;
};

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16, TCP = 6 };
enum { DROP = 0, KEEP = 0x40000 };

static __attribute__((always_inline)) __u64 *listening_word(__u32 word)
{
    return map_lookup(&listening, &word);
}

static __attribute__((always_inline)) int is_listening(__u16 port)
{
    __u64 bit = 1ULL << (port % 64), *word;

    word = listening_word(port / 64);
    if (!word || *word & bit)
        return 1;
    word = listening_word(WORDS + port / 64);
    if (!word || *word & bit)
        return 1;
    word = listening_word(2 * WORDS);
    return !word || !*word;
}

static __attribute__((always_inline)) int tcp(const struct __sk_buff *skb, struct flow *flow, __u32 start, __u32 total)
{
    struct tcp header;
    __u16 port;

    if (load_bytes(skb, start, &header, sizeof(header)))
        return KEEP;
    flow->from_port = header.from;
    flow->to_port = header.to;
    port = __builtin_bswap16(header.to);

    if (header.flags & SYN) {
        if (header.flags & ACK)
            return DROP; // the pod is the client
        __u64 *word = listening_word(port / 64);
        if (word)
            __sync_fetch_and_or(word, 1ULL << (port % 64));
        map_delete(&skipped, flow);
        return KEEP;
    }
    if (!is_listening(port))
        return DROP;
    if (header.flags & (FIN | RST))
        return KEEP;

    __u32 data = total - start - (header.length >> 4) * 4;
    if ((__s32)data <= 0)
        return DROP;
    struct span *span = map_lookup(&skipped, flow);
    if (span) {
        __u32 into = __builtin_bswap32(header.sequence) - span->start;
        if (into < span->length && data <= span->length - into)
            return DROP;
    }
    return KEEP;
}

static __attribute__((always_inline)) int ipv4(const struct __sk_buff *skb, struct flow *flow)
{
    struct ipv4 header;
    __u32 total;

    if (load_bytes(skb, 0, &header, sizeof(header)))
        return KEEP;
    if (header.protocol != TCP)
        return DROP;
    if (header.fragment & __builtin_bswap16(0x3fff))
        return KEEP;
    flow->from[2] = flow->to[2] = __builtin_bswap32(0xffff);
    flow->from[3] = header.from;
    flow->to[3] = header.to;
    total = __builtin_bswap16(header.total_length);
    return tcp(skb, flow, (header.version_length & 0xf) * 4, total ? total : skb->len);
}

static __attribute__((always_inline)) int ipv6(const struct __sk_buff *skb, struct flow *flow)
{
    struct ipv6 header;
    __u32 payload;

    if (load_bytes(skb, 0, &header, sizeof(header)))
        return KEEP;
    switch (header.next_header) {
    case TCP:
        break;
    case 0: case 43: case 44: case 51: case 60: // headers that may stand before TCP's
        return KEEP;
    default:
        return DROP;
    }
    __builtin_memcpy(flow->from, header.from, sizeof(flow->from));
    __builtin_memcpy(flow->to, header.to, sizeof(flow->to));
    payload = __builtin_bswap16(header.payload_length);
    return tcp(skb, flow, sizeof(header), payload ? payload + sizeof(header) : skb->len);
}

SEC("socket") int filter(const struct __sk_buff *skb)
{
    struct flow flow = {};
    __u8 version;

    if (load_bytes(skb, 0, &version, 1))
        return DROP;
    switch (version >> 4) {
    case 4:
        return ipv4(skb, &flow);
    case 6:
        return ipv6(skb, &flow);
    default:
        return DROP;
    }
}

SEC("license") const char licence[] = "Apache-2.0";

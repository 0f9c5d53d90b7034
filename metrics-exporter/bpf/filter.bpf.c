// Which packets a pod receives have to be looked at: those that begin or end a connection, and those with data for a port on
// which the pod listens, unless the data are known to be of no interest. What cannot be told here is let through.
//
// What has to be looked at is copied to a ring that all pods share, where the exporter reads it without a system call. Long packets
// are left to the socket, which keeps them without a copy; the ring then holds their place.
//
// Nothing is counted here. The program is run for each packet, before anyone else in the pod sees it.

#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))

static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*const load_bytes)(const void *skb, __u32 offset, void *to, __u32 length) = (void *)BPF_FUNC_skb_load_bytes;
static void *(*const ring_reserve)(void *ring, __u64 size, __u64 flags) = (void *)BPF_FUNC_ringbuf_reserve;
static __u64 (*const ring_query)(void *ring, __u64 what) = (void *)BPF_FUNC_ringbuf_query;
static void (*const ring_submit)(void *record, __u64 flags) = (void *)BPF_FUNC_ringbuf_submit;
static void (*const ring_discard)(void *record, __u64 flags) = (void *)BPF_FUNC_ringbuf_discard;

struct map {
    unsigned int type, key_size, value_size, max_entries, flags;
};

// A connection, in the direction to the pod. Numbers are as they are in packets, but for the pod's.
struct flow {
    __u32 pod, from[4], to[4];
    __be16 from_port, to_port;
};

// The bytes of a connection that need not be looked at: `length` of them from number `start` on.
struct span {
    __u32 start, length;
};

// A packet from its network header on, and as much room after it as makes the record one of a few sizes. One without a packet is the
// place of one that the socket keeps.
struct record {
    __u32 pod, length;
    __u8 packet[];
};

// What pods have received, in the order in which they did. Shared by all.
struct map SEC("maps") ring = {
    .type = BPF_MAP_TYPE_RINGBUF,
    .max_entries = 8 << 20,
};

// Shared by all.
enum {
    OVERFLOWS, // how many packets found no room in the ring
    RESTING,   // whether the exporter is content to be woken up when there is much to read
    COMMON
};
struct map SEC("maps") common = {
    .type = BPF_MAP_TYPE_ARRAY,
    .key_size = sizeof(__u32),
    .value_size = sizeof(__u64),
    .max_entries = COMMON,
};

// Filled by the exporter. Shared by all.
struct map SEC("maps") skipped = {
    .type = BPF_MAP_TYPE_HASH,
    .key_size = sizeof(struct flow),
    .value_size = sizeof(struct span),
    .max_entries = 16384,
    .flags = BPF_F_NO_PREALLOC,
};

// What is known of the pod. At first a bit for each port on which it listens: those to which a connection was seen to begin, then
// those that the exporter has found.
enum {
    WORDS = 65536 / 64,
    HAS_LOOKED = 2 * WORDS, // the exporter has; until then all ports are taken for such
    NUMBER,                 // the pod's in the ring; where there is none, all is left to the socket
    KNOWN
};
struct map SEC("maps") pod = {
    .type = BPF_MAP_TYPE_ARRAY,
    .key_size = sizeof(__u32),
    .value_size = sizeof(__u64),
    .max_entries = KNOWN,
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

enum verdict { IGNORE, LOOK };
enum { FIN = 1, SYN = 2, RST = 4, ACK = 16, TCP = 6 };
enum { DROP = 0, KEEP = 0x40000 };

// The kernel's own header of each record, how many bytes in the ring are much, and what is left for a packet in a record of so many bytes.
enum { RING_HEADER = 8, MUCH = 1 << 20 };
#define ROOM(bytes) ((bytes) - RING_HEADER - sizeof(struct record))

#define INLINE static __attribute__((always_inline))

INLINE __u64 *known(__u32 word)
{
    return map_lookup(&pod, &word);
}

INLINE int is_listening(__u16 port)
{
    __u64 bit = 1ULL << (port % 64), *word;

    word = known(port / 64);
    if (!word || *word & bit)
        return 1;
    word = known(WORDS + port / 64);
    if (!word || *word & bit)
        return 1;
    word = known(HAS_LOOKED);
    return !word || !*word;
}

// There is no room in the ring: from here on the pod's packets are left to the socket, until the exporter has read what is in both.
INLINE int overflow(void)
{
    __u32 word = OVERFLOWS;
    __u64 *number = known(NUMBER), *count = map_lookup(&common, &word);

    if (number)
        *number = 0;
    if (count)
        __sync_fetch_and_add(count, 1);
    return KEEP;
}

// Whether a record wakes the exporter up. While it rests, the one does with which there is much to read, and a few after it.
INLINE __u64 waking(void)
{
    __u32 word = RESTING;
    __u64 *resting = map_lookup(&common, &word);

    if (!resting || !*resting)
        return 0; // the first does
    return ring_query(&ring, BPF_RB_AVAIL_DATA) - MUCH < 8 * 2048 ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

// Copies a packet that fits to the ring, as a record that takes so many bytes there.
INLINE int put(const struct __sk_buff *skb, __u32 number, __u32 length, const __u32 bytes)
{
    struct record *record = ring_reserve(&ring, bytes - RING_HEADER, 0);

    if (!record)
        return overflow();
    record->pod = number;
    record->length = length;
    if (load_bytes(skb, 0, record->packet, length)) {
        ring_discard(record, 0);
        return KEEP;
    }
    ring_submit(record, waking());
    return DROP;
}

INLINE int put_place(__u32 number)
{
    struct record *record = ring_reserve(&ring, sizeof(*record), 0);

    if (!record)
        return overflow();
    record->pod = number;
    record->length = 0;
    ring_submit(record, waking());
    return KEEP;
}

INLINE int look_at(const struct __sk_buff *skb, __u32 number)
{
    __u32 length = skb->len;

    if (!number)
        return KEEP;
    if (!length)
        return DROP;
    if (length <= ROOM(128))
        return put(skb, number, length, 128);
    if (length <= ROOM(256))
        return put(skb, number, length, 256);
    if (length <= ROOM(512))
        return put(skb, number, length, 512);
    if (length <= ROOM(1024))
        return put(skb, number, length, 1024);
    if (length <= ROOM(1536))
        return put(skb, number, length, 1536);
    if (length <= ROOM(2048))
        return put(skb, number, length, 2048);
    return put_place(number);
}

INLINE enum verdict tcp(const struct __sk_buff *skb, struct flow *flow, __u32 start, __u32 total)
{
    struct tcp header;
    __u16 port;

    if (load_bytes(skb, start, &header, sizeof(header)))
        return LOOK;
    flow->from_port = header.from;
    flow->to_port = header.to;
    port = __builtin_bswap16(header.to);

    if (header.flags & SYN) {
        if (header.flags & ACK)
            return IGNORE; // the pod is the client
        __u64 *word = known(port / 64);
        if (word)
            __sync_fetch_and_or(word, 1ULL << (port % 64));
        map_delete(&skipped, flow);
        return LOOK;
    }
    if (!is_listening(port))
        return IGNORE;
    if (header.flags & (FIN | RST))
        return LOOK;

    __u32 data = total - start - (header.length >> 4) * 4;
    if ((__s32)data <= 0)
        return IGNORE;
    struct span *span = map_lookup(&skipped, flow);
    if (span) {
        __u32 into = __builtin_bswap32(header.sequence) - span->start;
        if (into < span->length && data <= span->length - into)
            return IGNORE;
    }
    return LOOK;
}

INLINE enum verdict ipv4(const struct __sk_buff *skb, struct flow *flow)
{
    struct ipv4 header;
    __u32 total;

    if (load_bytes(skb, 0, &header, sizeof(header)))
        return LOOK;
    if (header.protocol != TCP)
        return IGNORE;
    if (header.fragment & __builtin_bswap16(0x3fff))
        return LOOK;
    flow->from[2] = flow->to[2] = __builtin_bswap32(0xffff);
    flow->from[3] = header.from;
    flow->to[3] = header.to;
    total = __builtin_bswap16(header.total_length);
    return tcp(skb, flow, (header.version_length & 0xf) * 4, total ? total : skb->len);
}

INLINE enum verdict ipv6(const struct __sk_buff *skb, struct flow *flow)
{
    struct ipv6 header;
    __u32 payload;

    if (load_bytes(skb, 0, &header, sizeof(header)))
        return LOOK;
    switch (header.next_header) {
    case TCP:
        break;
    case 0: case 43: case 44: case 51: case 60: // headers that may stand before TCP's
        return LOOK;
    default:
        return IGNORE;
    }
    __builtin_memcpy(flow->from, header.from, sizeof(flow->from));
    __builtin_memcpy(flow->to, header.to, sizeof(flow->to));
    payload = __builtin_bswap16(header.payload_length);
    return tcp(skb, flow, sizeof(header), payload ? payload + sizeof(header) : skb->len);
}

SEC("socket") int filter(const struct __sk_buff *skb)
{
    __u64 *number = known(NUMBER);
    struct flow flow = {};
    enum verdict verdict = IGNORE;
    __u8 version;

    if (number)
        flow.pod = *number;
    if (load_bytes(skb, 0, &version, 1))
        return DROP;
    if (version >> 4 == 4)
        verdict = ipv4(skb, &flow);
    else if (version >> 4 == 6)
        verdict = ipv6(skb, &flow);
    return verdict == LOOK ? look_at(skb, flow.pod) : DROP;
}

SEC("license") const char licence[] = "Apache-2.0";

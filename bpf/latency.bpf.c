// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Latency of a guest's packets, in histograms per TAP:
 *
 *     guest ──► TAP ──[nv_xdp_out or nv_tcx_out]──► host ──► uplink ──[nv_uplink]──► internet
 *     guest ◄── TAP ◄────────[nv_in]─────────────── host ◄── uplink ◄─────────────── internet
 *
 * The answer to a TCP segment is the first one in the other direction that acknowledges its last byte; to an echo
 * request, its reply. Every packet passes, whatever happens here.
 *
 * Hooks: XDP where a TAP has no other XDP program; TCX (since Linux 6.6), which several programs can share,
 * where it has, and for the other direction; filters of clsact before. XDP sees only incoming frames.
 */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "latency.h"

#define PENDING_MAX 65536
#define TAPS_MAX 1024

#define ICMP 1
#define TCP 6
#define UDP 17
#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO 8
#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10
/* Of a fragment in its datagram. */
#define IP_OFFSET 0x1fff
#define IP_BYTES(ip) (((ip)->version_ihl & 0xf) * 4)

char LICENSE[] SEC("license") = "GPL";

/* The host adds one entry per watched TAP. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, TAPS_MAX);
	__type(key, __u32);
	__type(value, struct nv_tap);
} nv_taps SEC(".maps");

/* The key of an awaited answer. All bytes count, so there is no padding. */
struct await {
	__u32 ifindex;
	__be32 guest;
	__be32 peer;
	__be16 guest_port;
	__be16 peer_port;
	__u32 number;
	__u32 more;
	__u8 protocol;
	__u8 path;
	__u16 zero;
};

struct since {
	/* 0: retransmitted meanwhile. */
	__u64 at_ns;
	__u32 ifindex;
	__u32 zero;
};

/*
 * Shared by all TAPs: when it is full, the oldest of a processor are evicted (bpf_lru_list.c). So that one guest can't
 * evict those of others before their answers, additions per TAP and time are bounded, too (`noted_max`).
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PENDING_MAX);
	__type(key, struct await);
	__type(value, struct since);
} nv_pending SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nv_settings);
} nv_settings SEC(".maps");

static __always_inline const struct nv_settings *settings_of_host(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nv_settings, &zero);
}

struct packet {
	__be32 from;
	__be32 to;
	__be16 from_port;
	__be16 to_port;
	__u8 protocol;
	__u8 flags;
	__u16 ip_id;
	/* TCP: its first sequence number, and the one after its last. ICMP: identifier and sequence. */
	__u32 first;
	__u32 next;
	__u32 acknowledged;
	bool is_request;
	bool is_answer;
};

struct headers {
	struct iphdr ip;
	/* A TCP header without options, or the beginning of another. */
	struct tcphdr tcp;
};

/* Counts the time since then for the packet's TAP. */
static __always_inline void count(struct nv_tap *tap, enum nv_path path, __u64 ns)
{
	struct nv_times *times = &tap->paths[path];

	times->answered++;
	times->sum_ns += ns;
	times->buckets[nv_bucket_of(ns)]++;
}

static __always_inline void start(struct nv_tap *tap, enum nv_path path, struct await *key, __u32 ifindex,
				  __u32 noted_max)
{
	struct nv_times *times = &tap->paths[path];
	struct since since = { .at_ns = bpf_ktime_get_ns(), .ifindex = ifindex };
	__u64 window = since.at_ns >> NV_WINDOW_BITS;
	struct since *earlier;

	if (times->window != window) {
		times->window = window;
		times->noted = 0;
	}
	if (noted_max && times->noted >= noted_max) {
		times->skipped++;
		return;
	}
	times->noted++;
	if (bpf_map_update_elem(&nv_pending, key, &since, BPF_NOEXIST) == 0) {
		times->started++;
		return;
	}
	earlier = bpf_map_lookup_elem(&nv_pending, key);
	if (!earlier) {
		times->failed++;
		return;
	}
	/* Karn's rule: with a retransmission, an answer shows no time. */
	if (__sync_lock_test_and_set(&earlier->at_ns, 0))
		times->repeated++;
}

static __always_inline void answer(struct nv_tap *tap, enum nv_path path, struct await *key)
{
	struct since *found = bpf_map_lookup_elem(&nv_pending, key);
	__u64 at_ns;

	if (!found)
		return;
	at_ns = found->at_ns;
	/* Counted only by the one that removes it. */
	if (bpf_map_delete_elem(&nv_pending, key) != 0 || at_ns == 0)
		return;
	count(tap, path, bpf_ktime_get_ns() - at_ns);
}

/* @return whether the packet can be timed */
static __always_inline bool parse(const struct headers *headers, __u32 ip_bytes, struct packet *packet)
{
	const struct iphdr *ip = &headers->ip;
	const struct tcphdr *tcp = &headers->tcp;
	/* struct icmphdr: type, code, checksum, then identifier and sequence where TCP has `seq`. */
	const __u8 *icmp = (const __u8 *)tcp;
	__u32 total = bpf_ntohs(ip->tot_len), used;

	packet->from = ip->saddr;
	packet->to = ip->daddr;
	packet->protocol = ip->protocol;
	packet->ip_id = bpf_ntohs(ip->id);
	switch (ip->protocol) {
	case TCP:
		used = ip_bytes + (tcp->doff >> 4) * 4;
		if (total < used || tcp->flags & RST)
			return false;
		packet->from_port = tcp->source;
		packet->to_port = tcp->dest;
		packet->flags = tcp->flags;
		packet->first = bpf_ntohl(tcp->seq);
		packet->next = packet->first + total - used;
		if (tcp->flags & SYN)
			packet->next++;
		if (tcp->flags & FIN)
			packet->next++;
		packet->acknowledged = bpf_ntohl(tcp->ack_seq);
		packet->is_request = packet->next != packet->first;
		packet->is_answer = tcp->flags & ACK;
		return true;
	case ICMP:
		packet->from_port = packet->to_port = 0;
		packet->flags = 0;
		packet->first = bpf_ntohl(tcp->seq);
		packet->next = packet->acknowledged = packet->first;
		packet->is_request = icmp[0] == ICMP_ECHO;
		packet->is_answer = icmp[0] == ICMP_ECHO_REPLY;
		return packet->is_request || packet->is_answer;
	case UDP:
		packet->from_port = tcp->source;
		packet->to_port = tcp->dest;
		packet->flags = 0;
		packet->first = packet->next = packet->acknowledged = total;
		packet->is_request = packet->is_answer = false;
		return true;
	}
	return false;
}

/*
 * The fields that masquerading keeps: not the source address; mostly the port. If two guests send the same to the same
 * peer at once, one time is lost.
 */
static __always_inline struct await passage_of(const struct packet *packet)
{
	struct await key = {
		.path = NV_FORWARD,
		.protocol = packet->protocol,
		.peer = packet->to,
		.guest_port = packet->from_port,
		.peer_port = packet->to_port,
		.number = packet->first,
		.more = packet->protocol == TCP ? packet->acknowledged : packet->ip_id,
	};

	return key;
}

static __always_inline void from_guest(struct nv_tap *tap, __u32 ifindex, const struct packet *packet)
{
	struct await key = {
		.ifindex = ifindex,
		.protocol = packet->protocol,
		.guest = packet->from,
		.peer = packet->to,
		.guest_port = packet->from_port,
		.peer_port = packet->to_port,
	};
	const struct nv_settings *settings = settings_of_host();

	if (!settings)
		return;
	if (packet->is_answer) {
		key.path = NV_GUEST;
		key.number = packet->acknowledged;
		answer(tap, NV_GUEST, &key);
	}
	if (packet->is_request) {
		key.path = NV_PEER;
		key.number = packet->next;
		start(tap, NV_PEER, &key, ifindex, settings->noted_max);
	}
	if (settings->has_uplink && (packet->is_request || packet->protocol == UDP)) {
		struct await passage = passage_of(packet);

		start(tap, NV_FORWARD, &passage, ifindex, settings->noted_max);
	}
}

static __always_inline void to_guest(struct nv_tap *tap, __u32 ifindex, const struct packet *packet)
{
	struct await key = {
		.ifindex = ifindex,
		.protocol = packet->protocol,
		.guest = packet->to,
		.peer = packet->from,
		.guest_port = packet->to_port,
		.peer_port = packet->from_port,
	};
	const struct nv_settings *settings = settings_of_host();

	if (!settings)
		return;
	if (packet->is_answer) {
		key.path = NV_PEER;
		key.number = packet->acknowledged;
		answer(tap, NV_PEER, &key);
	}
	if (packet->is_request) {
		key.path = NV_GUEST;
		key.number = packet->next;
		start(tap, NV_GUEST, &key, ifindex, settings->noted_max);
	}
}

/*
 * @return bytes to read of the next header; 0: the packet can't be timed. A later fragment has no ports.
 */
static __always_inline __u32 bytes_behind(const struct iphdr *ip)
{
	if (ip->frag_off & bpf_htons(IP_OFFSET))
		return 0;
	switch (ip->protocol) {
	case TCP:
		return sizeof(struct tcphdr);
	case ICMP:
	case UDP:
		return 8;
	}
	return 0;
}

/* Reads IPv4 of an `skb`. @return whether the packet can be timed */
static __always_inline bool read_skb(struct __sk_buff *skb, struct packet *packet, __u64 *unreadable)
{
	struct headers headers = {};
	__u32 ip_bytes, bytes;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return false;
	if (bpf_skb_load_bytes_relative(skb, 0, &headers.ip, sizeof(headers.ip), BPF_HDR_START_NET))
		goto unreadable;
	ip_bytes = IP_BYTES(&headers.ip);
	if (ip_bytes < sizeof(headers.ip))
		goto unreadable;
	bytes = bytes_behind(&headers.ip);
	if (bytes == 0)
		return false;
	if (bpf_skb_load_bytes_relative(skb, ip_bytes, &headers.tcp, bytes, BPF_HDR_START_NET))
		goto unreadable;
	return parse(&headers, ip_bytes, packet);
unreadable:
	(*unreadable)++;
	return false;
}

SEC("xdp")
int nv_xdp_out(struct xdp_md *context)
{
	__u32 ifindex = context->ingress_ifindex, ip_bytes, bytes;
	struct nv_tap *tap = bpf_map_lookup_elem(&nv_taps, &ifindex);
	struct headers headers = {};
	struct packet packet;
	struct ethhdr ethernet;

	if (!tap)
		return XDP_PASS;
	tap->frames_out++;
	if (bpf_xdp_load_bytes(context, 0, &ethernet, sizeof(ethernet)))
		goto unreadable;
	if (ethernet.h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	if (bpf_xdp_load_bytes(context, sizeof(ethernet), &headers.ip, sizeof(headers.ip)))
		goto unreadable;
	ip_bytes = IP_BYTES(&headers.ip);
	if (ip_bytes < sizeof(headers.ip))
		goto unreadable;
	bytes = bytes_behind(&headers.ip);
	if (bytes == 0)
		return XDP_PASS;
	if (bpf_xdp_load_bytes(context, sizeof(ethernet) + ip_bytes, &headers.tcp, bytes))
		goto unreadable;
	if (parse(&headers, ip_bytes, &packet))
		from_guest(tap, ifindex, &packet);
	return XDP_PASS;
unreadable:
	tap->unreadable++;
	return XDP_PASS;
}

SEC("tc")
int nv_tcx_out(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct nv_tap *tap = bpf_map_lookup_elem(&nv_taps, &ifindex);
	struct packet packet;

	if (!tap)
		return TCX_NEXT;
	tap->frames_out++;
	if (read_skb(skb, &packet, &tap->unreadable))
		from_guest(tap, ifindex, &packet);
	return TCX_NEXT;
}

SEC("tc")
int nv_in(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	struct nv_tap *tap = bpf_map_lookup_elem(&nv_taps, &ifindex);
	struct packet packet;

	if (!tap)
		return TCX_NEXT;
	tap->frames_in++;
	if (read_skb(skb, &packet, &tap->unreadable))
		to_guest(tap, ifindex, &packet);
	return TCX_NEXT;
}

SEC("tc")
int nv_uplink(struct __sk_buff *skb)
{
	struct packet packet;
	struct await passage;
	struct since *found;
	struct nv_tap *tap;
	/* Most packets here are not from guests. */
	__u64 ignored = 0;
	__u32 ifindex;

	if (!read_skb(skb, &packet, &ignored))
		return TCX_NEXT;
	passage = passage_of(&packet);
	found = bpf_map_lookup_elem(&nv_pending, &passage);
	if (!found)
		return TCX_NEXT;
	ifindex = found->ifindex;
	tap = bpf_map_lookup_elem(&nv_taps, &ifindex);
	if (tap)
		answer(tap, NV_FORWARD, &passage);
	return TCX_NEXT;
}

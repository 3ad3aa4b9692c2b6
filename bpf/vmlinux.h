/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The types of the kernel that our programs use, instead of the 3 MB that BTF of one kernel would give.
 *
 * What user space sees too (linux/bpf.h, linux/if_ether.h) never changes and is written as it is. Structs of
 * the kernel's inside have only the fields that are read; where these lie on the running kernel is looked up
 * in its BTF when a program is loaded (CO-RE, preserve_access_index).
 */
#ifndef NV_VMLINUX_H
#define NV_VMLINUX_H

typedef signed char __s8;
typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef int __s32;
typedef unsigned int __u32;
typedef long long __s64;
typedef unsigned long long __u64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef _Bool bool;
#define true 1
#define false 0

/* linux/bpf.h */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_F_NO_PREALLOC = 1,
};

enum bpf_hdr_start_off {
	BPF_HDR_START_MAC = 0,
	BPF_HDR_START_NET = 1,
};

enum xdp_action {
	XDP_PASS = 2,
};

/* linux/bpf.h, enum tcx_action_base: on to the next program, else as if there were none. */
enum {
	TCX_NEXT = -1,
};

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
};

struct __sk_buff {
	__u32 len;
	__u32 pkt_type;
	__u32 mark;
	__u32 queue_mapping;
	__u32 protocol;
	__u32 vlan_present;
	__u32 vlan_tci;
	__u32 vlan_proto;
	__u32 priority;
	__u32 ingress_ifindex;
	__u32 ifindex;
};

struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

#define ETH_P_IP 0x0800

struct ethhdr {
	__u8 h_dest[6];
	__u8 h_source[6];
	__be16 h_proto;
} __attribute__((packed));

/* The bit fields are bytes here. */
struct iphdr {
	__u8 version_ihl;
	__u8 tos;
	__be16 tot_len;
	__be16 id;
	__be16 frag_off;
	__u8 ttl;
	__u8 protocol;
	__sum16 check;
	__be32 saddr;
	__be32 daddr;
};

struct tcphdr {
	__be16 source;
	__be16 dest;
	__be32 seq;
	__be32 ack_seq;
	__u8 doff;
	__u8 flags;
	__be16 window;
	__sum16 check;
	__be16 urg_ptr;
};

/* Of the kernel's inside. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct percpu_counter {
	__s64 count;
};

/* Since Linux 6.2; before, struct mm_rss_stat. */
struct mm_struct {
	struct percpu_counter rss_stat[4];
};

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live;
	short oom_score_adj;
};

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct task_struct {
	int pid;
	int tgid;
	int exit_code;
	char comm[16];
	struct mm_struct *mm;
	struct signal_struct *signal;
	const struct cred *cred;
};

#pragma clang attribute pop

#endif

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What latency.bpf.c and src/machine/observe/latency.ts share. A test compares both by the object's BTF. */
#ifndef NV_LATENCY_H
#define NV_LATENCY_H

#include "log2.h"

/* Measured paths: the index in `struct nv_tap`. */
enum nv_path {
	/* A packet to the guest until its answer comes out of the guest. */
	NV_GUEST = 0,
	/* A packet from the guest until its answer goes to the guest. */
	NV_PEER = 1,
	/* A packet from the guest until it leaves the host by an uplink. */
	NV_FORWARD = 2,
	NV_PATHS = 3,
};

/* Windows of time of 2^27 ns: 134 ms. */
#define NV_WINDOW_BITS 27

/* The one value of `nv_settings`, set by the host. */
struct nv_settings {
	/* 1: an uplink is watched. Otherwise nothing is noted for it. */
	__u32 has_uplink;
	/* Noted packets per TAP, window, processor and path; 0: any number. */
	__u32 noted_max;
};

struct nv_times {
	/* Packets with an awaited answer. */
	__u64 started;
	/* Answers: the sum of `buckets`. */
	__u64 answered;
	/* Retransmitted before the answer, which then can't be matched. */
	__u64 repeated;
	/* Not noted: the map of awaited answers was full. */
	__u64 failed;
	/* Not noted: the TAP's limit per window was reached. */
	__u64 skipped;
	/* The current window, and the packets noted in it. */
	__u64 window;
	__u64 noted;
	/* Sum of all times, `ns`. */
	__u64 sum_ns;
	__u64 buckets[NV_BUCKETS];
};

/* The value of `nv_taps`, once for each processor; the key is the TAP's link index. */
struct nv_tap {
	/* Inode of the network namespace whose link index the key is; set by the host. */
	__u64 namespace;
	/* Frames from the guest, and to it. */
	__u64 frames_out;
	__u64 frames_in;
	/* Frames shorter than their headers say. */
	__u64 unreadable;
	struct nv_times paths[NV_PATHS];
};

#endif

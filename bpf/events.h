/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What processes.bpf.c and src/machine/observe/events.ts share. A test compares both by the object's BTF. */
#ifndef NV_EVENTS_H
#define NV_EVENTS_H

#include "log2.h"

#define NV_COMM_BYTES 16

enum nv_event_kind {
	/* The OOM killer has selected this process. */
	NV_OOM_VICTIM = 1,
	/* A thread begins direct reclaim; `scope` says why. */
	NV_RECLAIM_BEGIN = 2,
	NV_RECLAIM_END = 3,
	NV_EXEC = 4,
	/* The last thread of the process has ended. */
	NV_EXIT = 5,
};

enum nv_scope {
	/* Memory pressure of the host. */
	NV_SCOPE_HOST = 0,
	/* The process's cgroup is at its limit. */
	NV_SCOPE_CGROUP = 1,
};

struct nv_event {
	/* Time of the event, CLOCK_MONOTONIC, `ns`. */
	__u64 at_ns;
	/* Number of the process's sandbox, assigned by the host; 0: none. */
	__u64 sandbox;
	/* enum nv_event_kind. */
	__u32 kind;
	/* Process and thread, in the initial pid namespace. */
	__u32 tgid;
	__u32 tid;
	/* User id of an OOM victim. */
	__u32 uid;
	/* Exit status, as in wait(2). */
	__u32 status;
	/* enum nv_scope, of a reclaim. */
	__u32 scope;
	/* Of an OOM victim, −1000 to 1000. */
	__s32 oom_score_adj;
	__u32 zero;
	/* Duration of a reclaim, `ns`. */
	__u64 duration_ns;
	/* Freed by a reclaim, `pages`. */
	__u64 freed_pages;
	/* Memory of an OOM victim, `pages`: its own, of files, shared. */
	__u64 anon_pages;
	__u64 file_pages;
	__u64 shmem_pages;
	/* Name of the process, with a final zero. */
	char comm[NV_COMM_BYTES];
};

/* The value of `nv_sandboxes`; the key is the sandbox's number. Counts everything, also without an event. */
struct nv_sandbox {
	__u64 execs;
	__u64 exits;
	__u64 oom_victims;
	/* Finished reclaims; the sum of `stall_buckets`, see log2.h. */
	__u64 stalls;
	/* Sum of their times, `ns`. */
	__u64 stall_ns;
	__u64 freed_pages;
	/* Reclaims without an event, since one was reported less than 100 ms before. */
	__u64 untold;
	/* Time of the last event, CLOCK_MONOTONIC, `ns`. */
	__u64 told_at_ns;
	__u64 stall_buckets[NV_BUCKETS];
};

/* The one value of `nv_loss`, for each processor. */
struct nv_loss {
	/* Events that the ring had no room for. */
	__u64 events;
	/* Processes of sandboxes that are not tracked, since their map was full. */
	__u64 processes;
};

#endif

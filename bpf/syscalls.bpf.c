// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Counts system calls of some processes (VMMs), by number. Attached only on demand, since meanwhile the kernel uses its
 * slow path for every system call of every process.
 *
 * A raw tracepoint, attached by name, since it needs no tracefs; since Linux 4.17.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include "syscalls.h"

#define PROCESSES_MAX 4096

char LICENSE[] SEC("license") = "GPL";

/* The host adds entries. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PROCESSES_MAX);
	__type(key, __u32);
	__type(value, struct nv_calls);
} nv_calls SEC(".maps");

/* Arguments: registers, number. A call that seccomp refuses does not get here. */
SEC("raw_tp/sys_enter")
int nv_sys_enter(struct bpf_raw_tracepoint_args *context)
{
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct nv_calls *counts = bpf_map_lookup_elem(&nv_calls, &tgid);
	__u64 number = context->args[1];

	if (!counts)
		return 0;
	/* Threads of one process may alternate on a processor. */
	if (number < NV_CALLS)
		__sync_fetch_and_add(&counts->calls[number], 1);
	else
		__sync_fetch_and_add(&counts->others, 1);
	return 0;
}

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Events of the processes of sandboxes (VMMs): start, end, selection by the OOM killer, and stalls in memory reclaim,
 * which precede an OOM kill.
 *
 * Raw tracepoints, attached by name, since they need no tracefs. All five exist since Linux 4.19 or earlier; arguments
 * that have changed since are checked below.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "events.h"

#define PROCESSES_MAX 16384
#define SANDBOXES_MAX 4096
#define RECLAIMING_MAX 8192
#define RING_BYTES (256 * 1024)
/* Reclaims come in tens of thousands per second; per sandbox, one in this time is reported. */
#define TELL_AFTER_NS 100000000ULL
/* MM_FILEPAGES, MM_ANONPAGES, MM_SHMEMPAGES of linux/mm_types_task.h. */
#define FILE_PAGES 0
#define ANON_PAGES 1
#define SHMEM_PAGES 3

char LICENSE[] SEC("license") = "GPL";

/* Sandbox of a process. The host adds the first process; its children follow. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROCESSES_MAX);
	__type(key, __u32);
	__type(value, __u64);
} nv_processes SEC(".maps");

/* The host adds entries. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SANDBOXES_MAX);
	__type(key, __u64);
	__type(value, struct nv_sandbox);
} nv_sandboxes SEC(".maps");

struct reclaim {
	__u64 since_ns;
	__u64 is_told;
};

/* By thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, RECLAIMING_MAX);
	__type(key, __u32);
	__type(value, struct reclaim);
} nv_reclaiming SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} nv_events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct nv_loss);
} nv_loss SEC(".maps");

static __always_inline struct nv_loss *loss(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&nv_loss, &zero);
}

static __always_inline __u64 sandbox_of(__u32 tgid)
{
	__u64 *sandbox = bpf_map_lookup_elem(&nv_processes, &tgid);

	return sandbox ? *sandbox : 0;
}

/*
 * Not inlined, so that the struct is in the object's BTF.
 * @return zeroed except for its head, and to be submitted; NULL: the ring is full, which is counted
 */
static __noinline struct nv_event *begin_event(enum nv_event_kind kind, __u64 sandbox)
{
	struct nv_event *event = bpf_ringbuf_reserve(&nv_events, sizeof(*event), 0);
	struct nv_loss *lost;

	if (!event) {
		lost = loss();
		if (lost)
			lost->events++;
		return NULL;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->at_ns = bpf_ktime_get_ns();
	event->sandbox = sandbox;
	event->kind = kind;
	return event;
}

static __always_inline void tell_of(enum nv_event_kind kind, __u64 sandbox, struct task_struct *task)
{
	struct nv_event *event = begin_event(kind, sandbox);

	if (!event)
		return;
	event->tgid = BPF_CORE_READ(task, tgid);
	event->tid = BPF_CORE_READ(task, pid);
	event->status = BPF_CORE_READ(task, exit_code);
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), task->comm);
	bpf_ringbuf_submit(event, 0);
}

/*
 * For every process of the host: a victim outside of the sandboxes shows what took the memory. Before Linux 6.10 the
 * first argument is the pid, and nothing else is known.
 */
SEC("raw_tp/mark_victim")
int nv_mark_victim(struct bpf_raw_tracepoint_args *context)
{
	bool is_pid = context->args[0] <= 0xffffffff;
	struct task_struct *task = (void *)context->args[0];
	__u32 tgid = is_pid ? context->args[0] : BPF_CORE_READ(task, tgid);
	__u64 sandbox = sandbox_of(tgid);
	struct nv_sandbox *counts = bpf_map_lookup_elem(&nv_sandboxes, &sandbox);
	struct nv_event *event;
	struct mm_struct *mm;

	if (counts)
		__sync_fetch_and_add(&counts->oom_victims, 1);
	event = begin_event(NV_OOM_VICTIM, sandbox);
	if (!event)
		return 0;
	event->tgid = tgid;
	event->tid = tgid;
	if (!is_pid) {
		event->tid = BPF_CORE_READ(task, pid);
		event->uid = BPF_CORE_READ(task, cred, uid.val);
		event->oom_score_adj = BPF_CORE_READ(task, signal, oom_score_adj);
		mm = BPF_CORE_READ(task, mm);
		if (mm && bpf_core_field_exists(mm->rss_stat)) {
			event->anon_pages = BPF_CORE_READ(mm, rss_stat[ANON_PAGES].count);
			event->file_pages = BPF_CORE_READ(mm, rss_stat[FILE_PAGES].count);
			event->shmem_pages = BPF_CORE_READ(mm, rss_stat[SHMEM_PAGES].count);
		}
		bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), task->comm);
	}
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline void tell_reclaim(enum nv_event_kind kind, __u64 sandbox, enum nv_scope scope,
					 __u64 duration_ns, __u64 freed_pages)
{
	struct nv_event *event = begin_event(kind, sandbox);
	__u64 id = bpf_get_current_pid_tgid();

	if (!event)
		return;
	event->tgid = id >> 32;
	event->tid = id;
	event->scope = scope;
	event->duration_ns = duration_ns;
	event->freed_pages = freed_pages;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, 0);
}

static __always_inline int reclaim_begins(enum nv_scope scope)
{
	__u64 id = bpf_get_current_pid_tgid(), sandbox = sandbox_of(id >> 32), told_at_ns;
	struct nv_sandbox *counts = bpf_map_lookup_elem(&nv_sandboxes, &sandbox);
	struct reclaim reclaim = { .since_ns = bpf_ktime_get_ns() };
	__u32 tid = id;

	if (!counts)
		return 0;
	told_at_ns = counts->told_at_ns;
	reclaim.is_told = reclaim.since_ns - told_at_ns >= TELL_AFTER_NS;
	/* Two threads at once may report it twice, which is harmless. */
	if (reclaim.is_told) {
		counts->told_at_ns = reclaim.since_ns;
		tell_reclaim(NV_RECLAIM_BEGIN, sandbox, scope, 0, 0);
	}
	bpf_map_update_elem(&nv_reclaiming, &tid, &reclaim, BPF_ANY);
	return 0;
}

static __always_inline int reclaim_ends(enum nv_scope scope, __u64 freed_pages)
{
	__u64 id = bpf_get_current_pid_tgid(), sandbox, duration_ns;
	struct nv_sandbox *counts;
	struct reclaim *reclaim;
	__u32 tid = id;
	bool is_told;

	reclaim = bpf_map_lookup_elem(&nv_reclaiming, &tid);
	if (!reclaim)
		return 0;
	duration_ns = bpf_ktime_get_ns() - reclaim->since_ns;
	is_told = reclaim->is_told;
	bpf_map_delete_elem(&nv_reclaiming, &tid);
	sandbox = sandbox_of(id >> 32);
	counts = bpf_map_lookup_elem(&nv_sandboxes, &sandbox);
	if (!counts)
		return 0;
	__sync_fetch_and_add(&counts->stalls, 1);
	__sync_fetch_and_add(&counts->stall_ns, duration_ns);
	__sync_fetch_and_add(&counts->freed_pages, freed_pages);
	__sync_fetch_and_add(&counts->stall_buckets[nv_bucket_of(duration_ns)], 1);
	if (is_told)
		tell_reclaim(NV_RECLAIM_END, sandbox, scope, duration_ns, freed_pages);
	else
		__sync_fetch_and_add(&counts->untold, 1);
	return 0;
}

SEC("raw_tp/mm_vmscan_direct_reclaim_begin")
int nv_host_reclaim_begin(void *context)
{
	return reclaim_begins(NV_SCOPE_HOST);
}

SEC("raw_tp/mm_vmscan_direct_reclaim_end")
int nv_host_reclaim_end(struct bpf_raw_tracepoint_args *context)
{
	return reclaim_ends(NV_SCOPE_HOST, context->args[0]);
}

SEC("raw_tp/mm_vmscan_memcg_reclaim_begin")
int nv_cgroup_reclaim_begin(void *context)
{
	return reclaim_begins(NV_SCOPE_CGROUP);
}

SEC("raw_tp/mm_vmscan_memcg_reclaim_end")
int nv_cgroup_reclaim_end(struct bpf_raw_tracepoint_args *context)
{
	return reclaim_ends(NV_SCOPE_CGROUP, context->args[0]);
}

SEC("raw_tp/sched_process_fork")
int nv_fork(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *parent = (void *)context->args[0], *child = (void *)context->args[1];
	__u32 parent_tgid = BPF_CORE_READ(parent, tgid), tgid = BPF_CORE_READ(child, tgid);
	struct nv_loss *lost;
	__u64 sandbox;

	/* A thread. */
	if (tgid == parent_tgid)
		return 0;
	sandbox = sandbox_of(parent_tgid);
	if (sandbox == 0 || bpf_map_update_elem(&nv_processes, &tgid, &sandbox, BPF_ANY) == 0)
		return 0;
	lost = loss();
	if (lost)
		lost->processes++;
	return 0;
}

SEC("raw_tp/sched_process_exec")
int nv_exec(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *task = (void *)context->args[0];
	__u64 sandbox = sandbox_of(BPF_CORE_READ(task, tgid));
	struct nv_sandbox *counts = bpf_map_lookup_elem(&nv_sandboxes, &sandbox);

	if (!counts)
		return 0;
	__sync_fetch_and_add(&counts->execs, 1);
	tell_of(NV_EXEC, sandbox, task);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int nv_exit(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *task = (void *)context->args[0];
	__u32 tgid = BPF_CORE_READ(task, tgid);
	struct nv_sandbox *counts;
	__u64 sandbox = sandbox_of(tgid);

	/* `live` is decremented already: 0 for the last thread. */
	if (sandbox == 0 || BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	bpf_map_delete_elem(&nv_processes, &tgid);
	counts = bpf_map_lookup_elem(&nv_sandboxes, &sandbox);
	if (!counts)
		return 0;
	__sync_fetch_and_add(&counts->exits, 1);
	tell_of(NV_EXIT, sandbox, task);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What syscalls.bpf.c and src/machine/observe/syscalls.ts share. A test compares both by the object's BTF. */
#ifndef NV_SYSCALLS_H
#define NV_SYSCALLS_H

/* Above all numbers of x86-64 (463 in Linux 6.12); those of x32 have bit 30 set. */
#define NV_CALLS 512

/* The value of `nv_calls`, for each processor; the key is the process, in the initial pid namespace. */
struct nv_calls {
	/* Calls by number. */
	__u64 calls[NV_CALLS];
	/* Calls with another number. */
	__u64 others;
};

#endif

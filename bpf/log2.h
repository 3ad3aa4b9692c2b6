/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The bucket of a time in a histogram of powers of two. */
#ifndef NV_LOG2_H
#define NV_LOG2_H

/*
 * Bucket n counts times of 2^n to 2^(n+1) - 1 ns; the first also 0, the last (9 minutes) also everything longer.
 */
#define NV_BUCKETS 40

static __always_inline __u32 nv_bucket_of(__u64 ns)
{
	__u32 log = 0, shift;

	shift = (ns > 0xffffffff) << 5; ns >>= shift; log |= shift;
	shift = (ns > 0xffff) << 4; ns >>= shift; log |= shift;
	shift = (ns > 0xff) << 3; ns >>= shift; log |= shift;
	shift = (ns > 0xf) << 2; ns >>= shift; log |= shift;
	shift = (ns > 0x3) << 1; ns >>= shift; log |= shift;
	log |= ns >> 1;
	return log < NV_BUCKETS ? log : NV_BUCKETS - 1;
}

#endif

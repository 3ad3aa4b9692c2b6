/* A balloon that follows the host at once, from the top of the memory down (virtio 1.2, 5.5). */
#ifndef BALLOON_H
#define BALLOON_H
#include "virtio.h"

/* Firecracker takes no more of them in one descriptor. */
#define BALLOON_PAGES_AT_ONCE 256
#define FEATURE_STATISTICS (1u << 1)

static uint64_t balloon;
static uint32_t balloon_pages;
static uint64_t memory_end;
/* Inflate, deflate, statistics; the last one is never filled. */
static struct queue balloon_queues[3];

static void begin_balloon(uint64_t device, uint64_t end)
{
	balloon = device;
	memory_end = end;
	begin_device(device, FEATURE_STATISTICS);
	for (uint16_t i = 0; i < COUNT(balloon_queues); i++)
		begin_queue(&balloon_queues[i], device, i);
	finish_device(device);
}

/* The balloon is what lies above `memory_end - balloon_pages`; `from` and `to` are sizes of it. */
static void give_pages(struct queue *q, uint32_t from, uint32_t to)
{
	static uint32_t numbers[BALLOON_PAGES_AT_ONCE];

	while (from < to) {
		uint32_t count = to - from;

		if (count > COUNT(numbers))
			count = COUNT(numbers);
		for (uint32_t i = 0; i < count; i++)
			numbers[i] = (memory_end >> 12) - from - i - 1;
		q->table[0] = (struct descriptor){ (uint64_t)numbers, count * sizeof(numbers[0]), 0, 0 };
		offer(q, 0);
		await(q);
		from += count;
	}
}

static void poll_balloon(void)
{
	uint32_t wanted = read_register(balloon, R_CONFIG);

	if (wanted == balloon_pages)
		return;
	if (wanted > balloon_pages)
		give_pages(&balloon_queues[0], balloon_pages, wanted);
	else
		give_pages(&balloon_queues[1], wanted, balloon_pages);
	balloon_pages = wanted;
	write_register(balloon, R_CONFIG + 4, balloon_pages);
}
#endif

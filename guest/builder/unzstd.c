/*
 * Decompresses zstd frames from standard input to standard output, in the VM that builds images. The window is bounded:
 * a frame that asks for more is refused before memory is taken for it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

/* 128 MiB, the most that `zstd --ultra` uses without --long. */
#define WINDOW_LOG_MAX 27

static void fail(const char *why)
{
	fprintf(stderr, "%s\n", why);
	exit(1);
}

static void write_all(const char *bytes, size_t count)
{
	while (count > 0) {
		ssize_t n = write(STDOUT_FILENO, bytes, count);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			fail("the output was closed");
		bytes += n;
		count -= n;
	}
}

int main(void)
{
	ZSTD_DStream *stream = ZSTD_createDStream();
	size_t in_size = ZSTD_DStreamInSize(), out_size = ZSTD_DStreamOutSize();
	char *in = malloc(in_size), *out = malloc(out_size);
	size_t left = 0;
	ssize_t n;

	if (!stream || !in || !out)
		fail("out of memory");
	if (ZSTD_isError(ZSTD_DCtx_setParameter(stream, ZSTD_d_windowLogMax, WINDOW_LOG_MAX)))
		fail("the window can't be bounded");
	while ((n = read(STDIN_FILENO, in, in_size)) != 0) {
		ZSTD_inBuffer from = { in, n, 0 };
		ZSTD_outBuffer to;

		if (n < 0)
			fail("the input can't be read");

		do {
			to = (ZSTD_outBuffer){ out, out_size, 0 };
			left = ZSTD_decompressStream(stream, &to, &from);
			if (ZSTD_isError(left))
				fail(ZSTD_getErrorName(left));
			write_all(out, to.pos);
			/* A full buffer may leave output inside the stream. */
		} while (from.pos < from.size || (left != 0 && to.pos == to.size));
	}
	if (left != 0)
		fail("the last frame is cut off");
	return 0;
}

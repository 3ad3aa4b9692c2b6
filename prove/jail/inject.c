/*
 * Operations of the proofs on processes, as root.
 *
 *   inject call PID NUMBER [ARGUMENT ...]   makes a running process execute one system call, as if it were
 *                                           compromised, and prints the outcome
 *   inject filters TID                      prints the thread's seccomp programs in hexadecimal, one per line
 *   inject eat MIB                          waits for a byte on stdin, then touches MIB of memory
 *   inject spawn COUNT                      waits for a byte, then forks COUNT times; prints the number of children
 *   inject write FILE COUNT KIB             waits for a byte, then makes COUNT writes of KIB each with O_DIRECT;
 *                                           prints the duration
 *
 * `call` prints "returned N" (the process continues), "killed by N", "executed", "exited N" or "signalled N". An
 * argument "@TEXT" is the address of that text on the stack of the process; other arguments are numbers. Children of
 * the call are killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGUMENTS_MAX 6
#define TEXT_BYTES_MAX 256
/* Below the stack pointer, beyond the red zone of the ABI. */
#define SCRATCH_BYTES 4096
/* The bytes 0f 05, little-endian. */
#define SYSCALL_CODE 0x050f
#define SYSCALL_BYTES 2
#define FILTERS_MAX 16
#define STOPS_MAX 2000
#define STOP_GAP_US 5000
#define SIGNAL_RT_FIRST 32
/* ERESTARTSYS … ERESTART_RESTARTBLOCK */
#define ERESTART_FIRST 512
#define ERESTART_LAST 516

static int fail(const char *what)
{
	fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
	return 1;
}

/* Writes a text of at most TEXT_BYTES_MAX into the process. */
static int poke(pid_t pid, unsigned long at, const char *text)
{
	char padded[TEXT_BYTES_MAX + sizeof(long)] = { 0 };
	strncpy(padded, text, TEXT_BYTES_MAX - 1);
	for (size_t i = 0; i < TEXT_BYTES_MAX; i += sizeof(long)) {
		long word;
		memcpy(&word, padded + i, sizeof(word));
		if (ptrace(PTRACE_POKEDATA, pid, at + i, word) < 0)
			return -1;
	}
	return 0;
}

/* Waits for the next stop of this thread, and kills its children meanwhile. Stores waitpid's status. */
static int next_stop(pid_t pid, int *status)
{
	unsigned long former;

	for (;;) {
		pid_t seen = waitpid(-1, status, __WALL);
		if (seen < 0)
			return -1;
		if (seen == pid)
			return 0;
		/* After execve a thread has the id of its process. */
		if (*status >> 8 == (SIGTRAP | PTRACE_EVENT_EXEC << 8) &&
		    ptrace(PTRACE_GETEVENTMSG, seen, 0, &former) == 0 && former == (unsigned long)pid)
			return 0;
		if (!WIFSTOPPED(*status))
			continue;
		kill(seen, SIGKILL);
		/* It stops once more as it exits. */
		ptrace(PTRACE_CONT, seen, 0, 0);
	}
}

static int print_end(int status)
{
	if (WIFSIGNALED(status))
		printf("killed by %d\n", WTERMSIG(status));
	else
		printf("exited %d\n", WEXITSTATUS(status));
	return 0;
}

/*
 * Prints the status of a thread that is about to exit: if a filter kills only the main thread, waitpid reports it only
 * after all other threads. Returns false for another stop.
 */
static int print_exit(pid_t pid, int status)
{
	unsigned long code;

	if (status >> 16 != PTRACE_EVENT_EXIT)
		return 0;
	if (ptrace(PTRACE_GETEVENTMSG, pid, 0, &code) < 0)
		code = SIGKILL;
	print_end((int)code);
	return 1;
}

/*
 * Whether the call was interrupted (kernel-internal codes: include/linux/errno.h). Then the thread was blocked, and
 * holds no lock that a handler of the injected call's SIGSYS may need, for example to log.
 */
static int waited(const struct user_regs_struct *regs)
{
	long result = (long)regs->rax;

	return result == -EINTR || (result <= -ERESTART_FIRST && result >= -ERESTART_LAST);
}

/*
 * Stops the thread while it is blocked in a system call: the previous instruction is `syscall`, which is then
 * executed again with other registers. The code stays unchanged, since other threads run it too.
 */
static int stop_in_call(pid_t pid, struct user_regs_struct *regs)
{
	for (int tries = 0; tries < STOPS_MAX; tries++) {
		int status;

		if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0 || next_stop(pid, &status) < 0)
			return -1;
		if (!WIFSTOPPED(status))
			exit(print_end(status));
		if (print_exit(pid, status))
			exit(0);
		if (status >> 16 == 0) {
			if (ptrace(PTRACE_CONT, pid, 0, WSTOPSIG(status)) < 0)
				return -1;
			continue;
		}
		if (ptrace(PTRACE_GETREGS, pid, 0, regs) < 0)
			return -1;
		errno = 0;
		long code = ptrace(PTRACE_PEEKTEXT, pid, regs->rip - SYSCALL_BYTES, 0);
		if (!(code == -1 && errno != 0) && (code & 0xffff) == SYSCALL_CODE && waited(regs))
			return 0;
		if (ptrace(PTRACE_CONT, pid, 0, 0) < 0)
			return -1;
		usleep(STOP_GAP_US);
	}
	errno = EAGAIN;
	return -1;
}

/* Threads of a VMM wake one another with real-time signals: not an outcome of the call, and delivered after it. */
static int is_kick(int status)
{
	return status >> 16 == 0 && WSTOPSIG(status) >= SIGNAL_RT_FIRST;
}

static int call(pid_t pid, int count, char **words)
{
	struct user_regs_struct saved, changed;
	unsigned long value[1 + ARGUMENTS_MAX] = { 0 };
	long options = PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
		       PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT;
	int status, kick = 0;

	if (ptrace(PTRACE_SEIZE, pid, 0, options) < 0)
		return fail("seize");
	if (stop_in_call(pid, &saved) < 0)
		return fail("stop the process in a system call");
	unsigned long scratch = (saved.rsp - SCRATCH_BYTES) & ~15UL;
	for (int i = 0; i < count && i < 1 + ARGUMENTS_MAX; i++) {
		if (words[i][0] == '@') {
			value[i] = scratch + (unsigned long)i * TEXT_BYTES_MAX;
			if (poke(pid, value[i], words[i] + 1) < 0)
				return fail("write a text");
		} else {
			value[i] = strtoul(words[i], NULL, 0);
		}
	}
	changed = saved;
	changed.rip -= SYSCALL_BYTES;
	/* Keeps the kernel from restarting this as an interrupted call. */
	changed.orig_rax = -1;
	changed.rax = value[0];
	changed.rdi = value[1];
	changed.rsi = value[2];
	changed.rdx = value[3];
	changed.r10 = value[4];
	changed.r8 = value[5];
	changed.r9 = value[6];
	if (ptrace(PTRACE_SETREGS, pid, 0, &changed) < 0)
		return fail("write registers");
	for (;;) {
		if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) < 0 || next_stop(pid, &status) < 0)
			return fail("step");
		if (!WIFSTOPPED(status))
			return print_end(status);
		if (print_exit(pid, status))
			return 0;
		/* Stops for a new child or program precede the end of the call. */
		if (status >> 16 == 0 && !is_kick(status))
			break;
		if (is_kick(status))
			kick = WSTOPSIG(status);
		if (status >> 16 == PTRACE_EVENT_EXEC) {
			printf("executed\n");
			return 0;
		}
	}
	if (WSTOPSIG(status) != SIGTRAP) {
		int signal = WSTOPSIG(status);
		int next = signal;
		do {
			if (ptrace(PTRACE_CONT, pid, 0, next) < 0 || next_stop(pid, &status) < 0)
				return fail("deliver a signal");
			if (!WIFSTOPPED(status))
				return print_end(status);
			if (print_exit(pid, status))
				return 0;
			next = WSTOPSIG(status);
		} while (is_kick(status));
		printf("signalled %d\n", signal);
		return 0;
	}
	if (ptrace(PTRACE_GETREGS, pid, 0, &changed) < 0)
		return fail("read the result");
	/* The process continues: the kernel restarts the interrupted call. */
	if (ptrace(PTRACE_SETREGS, pid, 0, &saved) < 0 || ptrace(PTRACE_DETACH, pid, 0, kick) < 0)
		return fail("resume the process");
	printf("returned %ld\n", (long)changed.rax);
	return 0;
}

/* Prints the newest filter first, as the kernel runs them (PTRACE_SECCOMP_GET_FILTER; root, CONFIG_CHECKPOINT_RESTORE). */
static int filters(pid_t pid)
{
	static struct sock_filter program[BPF_MAXINSNS];
	int status;

	if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0 ||
	    next_stop(pid, &status) < 0)
		return fail("stop the thread");
	for (long index = 0; index < FILTERS_MAX; index++) {
		long count = ptrace(PTRACE_SECCOMP_GET_FILTER, pid, index, program);
		if (count < 0 && errno == ENOENT)
			break;
		if (count < 0)
			return fail("read a filter");
		const unsigned char *bytes = (const unsigned char *)program;
		for (size_t at = 0; at < (size_t)count * sizeof(*program); at++)
			printf("%02x", bytes[at]);
		printf("\n");
	}
	return 0;
}

static void wait_for_byte(void)
{
	char byte;
	if (read(0, &byte, 1) != 1)
		exit(1);
}

static int eat(unsigned long mib)
{
	wait_for_byte();
	for (unsigned long i = 0; i < mib; i++) {
		char *block = malloc(1 << 20);
		if (block == NULL)
			return fail("allocate");
		memset(block, 1, 1 << 20);
	}
	printf("touched %lu MiB\n", mib);
	return 0;
}

static int spawn(int count)
{
	int made = 0;

	wait_for_byte();
	for (; made < count; made++) {
		pid_t child = fork();
		if (child < 0)
			break;
		if (child == 0) {
			pause();
			_exit(0);
		}
	}
	printf("made %d\n", made);
	fflush(stdout);
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	return 0;
}

static long now_ms(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

static int write_direct(const char *path, int count, size_t bytes)
{
	void *block;

	wait_for_byte();
	int fd = open(path, O_WRONLY | O_CREAT | O_DIRECT, 0600);
	if (fd < 0)
		return fail("open a file with O_DIRECT");
	if (posix_memalign(&block, 4096, bytes) != 0)
		return fail("allocate");
	memset(block, 1, bytes);
	long began = now_ms();
	for (int i = 0; i < count; i++) {
		if (pwrite(fd, block, bytes, (off_t)i * bytes) != (ssize_t)bytes)
			return fail("write");
	}
	printf("wrote in %ld ms\n", now_ms() - began);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && strcmp(argv[1], "call") == 0)
		return call(atoi(argv[2]), argc - 3, argv + 3);
	if (argc == 3 && strcmp(argv[1], "filters") == 0)
		return filters(atoi(argv[2]));
	if (argc == 3 && strcmp(argv[1], "eat") == 0)
		return eat(strtoul(argv[2], NULL, 0));
	if (argc == 3 && strcmp(argv[1], "spawn") == 0)
		return spawn(atoi(argv[2]));
	if (argc == 5 && strcmp(argv[1], "write") == 0)
		return write_direct(argv[2], atoi(argv[3]), strtoul(argv[4], NULL, 0) << 10);
	fprintf(stderr,
		"inject: call PID NUMBER ... | filters TID | eat MIB | spawn COUNT | write FILE COUNT KIB\n");
	return 2;
}

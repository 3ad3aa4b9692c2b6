/*
 * /sbin/neurovisor-init: the first program of a sandbox's VM.
 *
 *     kernel ─► / = EROFS on /dev/vda, read-only
 *     here   ─► overlay: lower / , upper ext4 on /dev/vdb (or tmpfs when there is none)
 *            ─► /proc /sys /dev /run, cgroup v2, loopback
 *            ─► python3 agent                     (its exit ends the VM; orphans are reaped here)
 *
 * A failure prints one clear line on the console and reboots, which ends the VMM: the host sees a dead VM
 * at once, instead of a silent one at the timeout.
 *
 * Build: gcc -static -Os -s -Wall -Wextra -o neurovisor-init init.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OVERLAY_DEVICE "/dev/vdb"
/* On the image's empty /run, so that the read-only root needs no extra mount point. */
#define STAGE "/run"
#define NEW_ROOT STAGE "/root"
#define UPPER_DISK STAGE "/disk"

/*
 * The account of sandboxed programs, see /etc/passwd in the image. Root owns every file of the image, so
 * that the build does not depend on the builder's ids.
 */
#define USER_HOME "/home/user"
#define USER_ID 1000

/* Limits of open files per process; programs may raise their soft limit. */
#define OPEN_FILES_SOFT 1024
#define OPEN_FILES_HARD 65536

static void die(const char *format, ...)
{
	int error = errno;
	va_list args;

	va_start(args, format);
	fprintf(stderr, "neurovisor-init: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, ": %s\n", strerror(error));
	va_end(args);
	sync();
	reboot(RB_AUTOBOOT);
	/* Only reached outside a VM. */
	_exit(1);
}

static void mount_or_die(const char *source, const char *target, const char *type,
			 unsigned long flags, const char *data)
{
	if (mount(source, target, type, flags, data) != 0)
		die("mount %s on %s", type ? type : source, target);
}

static void make_directory(const char *path, mode_t mode)
{
	if (mkdir(path, mode) != 0 && errno != EEXIST)
		die("make directory %s", path);
}

/* For optional settings: reports a failure and continues. */
static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "neurovisor-init: write %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void mount_kernel_filesystems(void)
{
	unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	mount_or_die("proc", "/proc", "proc", safe, NULL);
	mount_or_die("sysfs", "/sys", "sysfs", safe, NULL);
	/* Usually mounted already, by CONFIG_DEVTMPFS_MOUNT. */
	if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "mode=755") != 0 &&
	    errno != EBUSY)
		die("mount devtmpfs on /dev");
}

/* Returns "disk" or "memory". */
static const char *mount_overlay(void)
{
	const char *kind = "disk";
	struct stat status;

	mount_or_die("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=50%");
	make_directory(NEW_ROOT, 0755);
	make_directory(UPPER_DISK, 0755);
	if (stat(OVERLAY_DEVICE, &status) == 0)
		mount_or_die(OVERLAY_DEVICE, UPPER_DISK, "ext4", MS_NODEV | MS_NOATIME, NULL);
	else
		kind = "memory";
	make_directory(UPPER_DISK "/upper", 0755);
	make_directory(UPPER_DISK "/work", 0755);
	mount_or_die("overlay", NEW_ROOT, "overlay", MS_NOATIME,
		     "lowerdir=/,upperdir=" UPPER_DISK "/upper,workdir=" UPPER_DISK "/work");
	return kind;
}

static void switch_root(void)
{
	static const char *const moved[] = { "/proc", "/sys", "/dev" };
	char target[sizeof(NEW_ROOT) + 8];

	for (size_t i = 0; i < sizeof(moved) / sizeof(*moved); i++) {
		snprintf(target, sizeof(target), "%s%s", NEW_ROOT, moved[i]);
		mount_or_die(moved[i], target, NULL, MS_MOVE, NULL);
	}
	if (chdir(NEW_ROOT) != 0)
		die("enter " NEW_ROOT);
	mount_or_die(".", "/", NULL, MS_MOVE, NULL);
	if (chroot(".") != 0 || chdir("/") != 0)
		die("switch root");
}

static void link_device(const char *target, const char *path)
{
	if (symlink(target, path) != 0 && errno != EEXIST)
		die("link %s", path);
}

static void mount_user_filesystems(void)
{
	unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	/* In the image root owns every file. */
	if (chown(USER_HOME, USER_ID, USER_ID) != 0)
		die("chown " USER_HOME);
	/* /tmp stays on the overlay: a sandbox's disk is larger than its memory. */
	mount_or_die("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=10%");
	/* /etc/hostname, /etc/hosts and /etc/machine-id link to files that the agent writes there. */
	make_directory("/run/neurovisor", 0755);
	make_directory("/dev/pts", 0755);
	mount_or_die("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		     "gid=5,mode=620,ptmxmode=666");
	make_directory("/dev/shm", 01777);
	mount_or_die("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=50%");
	link_device("/proc/self/fd", "/dev/fd");
	link_device("/proc/self/fd/0", "/dev/stdin");
	link_device("/proc/self/fd/1", "/dev/stdout");
	link_device("/proc/self/fd/2", "/dev/stderr");
	/* favordynmods (Linux 6.0): a process enters its cgroup without waiting for an RCU grace period. */
	if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe, "favordynmods") != 0 &&
	    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe, NULL) != 0)
		fprintf(stderr, "neurovisor-init: no cgroup v2: %s\n", strerror(errno));
}

static void bring_loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) != 0)
		die("bring loopback up");
	close(fd);
}

static void set_limits(void)
{
	struct rlimit files = { OPEN_FILES_SOFT, OPEN_FILES_HARD };
	struct rlimit core = { 0, RLIM_INFINITY };

	if (setrlimit(RLIMIT_NOFILE, &files) != 0 || setrlimit(RLIMIT_CORE, &core) != 0)
		die("set limits");
	/*
	 * A script is a fork that dropped root without an exec; by default the kernel hides
	 * /proc/self from such a process (fs/exec.c, set_dumpable).
	 */
	write_file("/proc/sys/fs/suid_dumpable", "1");
}

/*
 * Waits without a timer: an idle sandbox must not wake up, and software emulation translates every program
 * anew that runs before the hello of a clone.
 */
static void run_agent(char *const argv[], char *const envp[])
{
	pid_t agent = fork();
	int status;

	if (agent < 0)
		die("fork");
	if (agent == 0) {
		setsid();
		execve(argv[0], argv, envp);
		fprintf(stderr, "neurovisor-init: start %s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	for (;;) {
		pid_t ended = waitpid(-1, &status, 0);

		if (ended == agent)
			break;
		if (ended < 0 && errno != EINTR)
			die("wait for the agent");
	}
	/* src/sandbox/ending.ts reads these two lines. */
	if (WIFSIGNALED(status))
		fprintf(stderr, "neurovisor-init: the agent was ended by signal %d\n", WTERMSIG(status));
	else
		fprintf(stderr, "neurovisor-init: the agent ended with status %d\n", WEXITSTATUS(status));
	sync();
	reboot(RB_AUTOBOOT);
	_exit(1);
}

int main(void)
{
	struct timespec now;
	char started[32];
	const char *overlay;
	char *const argv[] = { "/usr/bin/python3", "-I", "-S", "/opt/neurovisor/agent/__main__.py",
			       NULL };
	char *envp[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			 "LANG=C.UTF-8", NULL, NULL, NULL };

	clock_gettime(CLOCK_BOOTTIME, &now);
	snprintf(started, sizeof(started), "NEUROVISOR_INIT_NS=%lld",
		 (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
	umask(0022);
	mount_kernel_filesystems();
	overlay = mount_overlay();
	switch_root();
	mount_user_filesystems();
	bring_loopback_up();
	set_limits();
	envp[2] = started;
	envp[3] = strcmp(overlay, "disk") == 0 ? "NEUROVISOR_OVERLAY=disk"
					       : "NEUROVISOR_OVERLAY=memory";
	run_agent(argv, envp);
}

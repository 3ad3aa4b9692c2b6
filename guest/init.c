/*
 * /sbin/neurovisor-init: the first program of a sandbox's VM.
 *
 *     kernel ─► / = EROFS on /dev/vda, read-only: the system, with init, the agent and its Python
 *     here   ─► /proc /sys /dev, cgroup v2, loopback; scratch disk /dev/vdb (or memory when there is none)
 *            ─► the room: root of programs, files and scripts, in its own mount and pid namespaces
 *                 overlay: upper on the scratch disk; lower: fixed names of ours, then the environment
 *            ─► python3 agent, outside of the room (its exit ends the VM); its children enter the room
 *
 * The environment is the system image itself, or the EROFS image on the device that the kernel argument
 * neurovisor_environment names. Such an image is hostile: nothing here follows a link of it.
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
#include <sched.h>
#include <signal.h>
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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SCRATCH_DEVICE "/dev/vdb"
/* On the image's empty /run, so that the read-only root needs no extra mount point. */
#define STAGE "/run"
#define NEW_ROOT STAGE "/root"
#define SCRATCH STAGE "/disk"
#define ENVIRONMENT STAGE "/environment"
#define SKELETON STAGE "/skeleton"
#define AGENT_DIR "/opt/neurovisor/agent"
/* What agent and programs share. Both see it at the same path. */
#define SHARED STAGE "/neurovisor"

/* Of the room, below its root. */
static const char *const mount_points[] = { "proc", "sys", "dev", "run" };

/*
 * The account of sandboxed programs, see /etc/passwd in the image. Root owns every file of the image, so
 * that the build does not depend on the builder's ids.
 */
#define USER_HOME "/home/user"
#define USER_ID 1000

/* Limits of open files per process; programs may raise their soft limit. */
#define OPEN_FILES_SOFT 1024
#define OPEN_FILES_HARD 65536

/* In the room, this ends the room's process 1, and then init ends the VM. */
static void end_vm(void)
{
	sync();
	reboot(RB_AUTOBOOT);
	/* Only reached outside a VM. */
	_exit(1);
}

static void die(const char *format, ...)
{
	int error = errno;
	va_list args;

	va_start(args, format);
	fprintf(stderr, "neurovisor-init: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, ": %s\n", strerror(error));
	va_end(args);
	end_vm();
}

static void mount_or_die(const char *source, const char *target, const char *type,
			 unsigned long flags, const char *data)
{
	if (mount(source, target, type, flags, data) != 0)
		die("mount %s on %s", type ? type : source ? source : "options", target);
}

static void bind_mount(const char *source, const char *target, unsigned long flags)
{
	mount_or_die(source, target, NULL, MS_BIND, NULL);
	mount_or_die(NULL, target, NULL, MS_BIND | MS_REMOUNT | flags, NULL);
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
static const char *mount_scratch(void)
{
	const char *kind = "disk";
	struct stat status;

	mount_or_die("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=50%");
	make_directory(SCRATCH, 0755);
	if (stat(SCRATCH_DEVICE, &status) == 0)
		mount_or_die(SCRATCH_DEVICE, SCRATCH, "ext4", MS_NODEV | MS_NOATIME, NULL);
	else
		kind = "memory";
	make_directory(SCRATCH "/upper", 0755);
	make_directory(SCRATCH "/work", 0755);
	make_directory(SCRATCH "/scripts", 0755);
	return kind;
}

/*
 * Root of the sandbox can write here, and the agent writes here as root: so no link is followed.
 * Scripts are on the disk, the rest is in memory.
 */
static void mount_shared(void)
{
	unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOSYMFOLLOW;

	make_directory(SHARED, 0755);
	bind_mount(SHARED, SHARED, safe);
	make_directory(SHARED "/agent", 0755);
	bind_mount(AGENT_DIR, SHARED "/agent", MS_RDONLY | safe);
	make_directory(SHARED "/scripts", 0755);
	bind_mount(SCRATCH "/scripts", SHARED "/scripts", safe);
}

static void link_or_die(const char *target, const char *path)
{
	if (symlink(target, path) != 0 && errno != EEXIST)
		die("link %s", path);
}

static void link_standard_streams(const char *dev)
{
	static const char *const links[][2] = {
		{ "/proc/self/fd", "fd" },
		{ "/proc/self/fd/0", "stdin" },
		{ "/proc/self/fd/1", "stdout" },
		{ "/proc/self/fd/2", "stderr" },
	};
	char path[32];

	for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++) {
		snprintf(path, sizeof(path), "%s/%s", dev, links[i][1]);
		link_or_die(links[i][0], path);
	}
}

static void mount_devices(void)
{
	unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	make_directory("/dev/pts", 0755);
	mount_or_die("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		     "gid=5,mode=620,ptmxmode=666");
	make_directory("/dev/shm", 01777);
	mount_or_die("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=50%");
	link_standard_streams("/dev");
	/* favordynmods (Linux 6.0): a process enters its cgroup without waiting for an RCU grace period. */
	if (mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe, "favordynmods") != 0 &&
	    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe, NULL) != 0)
		fprintf(stderr, "neurovisor-init: no cgroup v2: %s\n", strerror(errno));
}

/*
 * The upper of two lower layers: directories that are mounted over and names in /etc that the agent writes.
 * It hides whatever the environment has in these places, so that nothing of it is followed, and the scratch
 * disk gets no entry for them.
 */
static void make_skeleton(void)
{
	static const char *const links[] = { "hostname", "hosts", "machine-id", "resolv.conf" };
	char path[64], target[64];

	make_directory(SKELETON, 0755);
	for (size_t i = 0; i < sizeof(mount_points) / sizeof(*mount_points); i++) {
		snprintf(path, sizeof(path), SKELETON "/%s", mount_points[i]);
		make_directory(path, 0755);
	}
	make_directory(SKELETON "/etc", 0755);
	make_directory(SKELETON "/tmp", 0);
	/* Beyond the umask. /tmp stays on the overlay: a sandbox's disk is larger than its memory. */
	if (chmod(SKELETON "/tmp", 01777) != 0)
		die("chmod " SKELETON "/tmp");
	for (size_t i = 0; i < sizeof(links) / sizeof(*links); i++) {
		snprintf(path, sizeof(path), SKELETON "/etc/%s", links[i]);
		snprintf(target, sizeof(target), SHARED "/%s", links[i]);
		link_or_die(target, path);
	}
	/* Written where the package gateway serves crates. */
	make_directory(SKELETON "/.cargo", 0755);
	link_or_die(SHARED "/cargo.toml", SKELETON "/.cargo/config.toml");
}

/* The devices that any program may expect, and the console; not the disks. */
static void mount_few_devices(void)
{
	static const char *const names[] = { "null", "zero", "full", "random", "urandom", "tty", "ttyS0" };
	char path[32], target[32];

	mount_or_die("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k");
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		snprintf(path, sizeof(path), "/dev/%s", names[i]);
		snprintf(target, sizeof(target), "dev/%s", names[i]);
		int fd = open(target, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd < 0)
			die("create %s", target);
		close(fd);
		/* Firecracker's guest may have no serial port. */
		if (mount(path, target, NULL, MS_BIND, NULL) != 0 && errno != ENOENT)
			die("mount %s on %s", path, target);
	}
	make_directory("dev/pts", 0755);
	mount_or_die("/dev/pts", "dev/pts", NULL, MS_BIND, NULL);
	make_directory("dev/shm", 01777);
	mount_or_die("/dev/shm", "dev/shm", NULL, MS_BIND, NULL);
	link_or_die("pts/ptmx", "dev/ptmx");
	link_standard_streams("dev");
}

/*
 * In the image root owns every file. The working directory is the room's root, and the system's root is still "/":
 * a link on a disk that another VM wrote would lead out of the room.
 */
static void give_home(void)
{
	int home = open("home", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int user = home < 0 ? -1 : openat(home, "user", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (user < 0 || fchownat(user, "", USER_ID, USER_ID, AT_EMPTY_PATH) != 0)
		die("give the disk's " USER_HOME " to its user");
	close(user);
	close(home);
}

static void make_room(const char *environment)
{
	unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	char options[256];
	struct stat status;

	mount_or_die(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	make_skeleton();
	if (environment != NULL) {
		make_directory(ENVIRONMENT, 0755);
		mount_or_die(environment, ENVIRONMENT, "erofs", MS_RDONLY | MS_NODEV, NULL);
	}
	make_directory(NEW_ROOT, 0755);
	snprintf(options, sizeof(options), "lowerdir=" SKELETON ":%s,upperdir=" SCRATCH "/upper,workdir=" SCRATCH "/work",
		 environment != NULL ? ENVIRONMENT : "/");
	mount_or_die("overlay", NEW_ROOT, "overlay", MS_NOATIME | MS_NODEV, options);
	if (chdir(NEW_ROOT) != 0)
		die("enter " NEW_ROOT);
	/* A disk with packages was written in another VM: a link there would hide the skeleton. */
	for (size_t i = 0; i < sizeof(mount_points) / sizeof(*mount_points); i++)
		if (fstatat(AT_FDCWD, mount_points[i], &status, AT_SYMLINK_NOFOLLOW) != 0 ||
		    !S_ISDIR(status.st_mode))
			die("use /%s of the disk as a directory", mount_points[i]);
	mount_or_die("proc", "proc", "proc", safe, NULL);
	mount_or_die("/sys", "sys", NULL, MS_BIND | MS_REC, NULL);
	if (environment != NULL)
		mount_few_devices();
	else
		mount_or_die("/dev", "dev", NULL, MS_BIND | MS_REC, NULL);
	mount_or_die("tmpfs", "run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=10%");
	make_directory("run/neurovisor", 0755);
	/* Root may change /etc/hosts, which is a link to here. */
	bind_mount(SHARED, "run/neurovisor", MS_NOSUID | MS_NODEV);
	bind_mount(AGENT_DIR, "run/neurovisor/agent", MS_RDONLY | MS_NOSUID | MS_NODEV);
	bind_mount(SCRATCH "/scripts", "run/neurovisor/scripts", MS_NOSUID | MS_NODEV);
	if (environment == NULL)
		give_home();
	if (syscall(SYS_pivot_root, ".", ".") != 0 || umount2(".", MNT_DETACH) != 0 || chdir("/") != 0)
		die("enter the room");
}

/*
 * Process 1 of the room, which reaps its orphans. It waits without a timer. In its pid namespace no signal ends
 * it, except by reboot(2), which the kernel turns into its end (pid_namespaces(7)).
 */
static void serve_room(void)
{
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	for (;;)
		if (waitpid(-1, NULL, 0) < 0)
			/* There is no orphan now. */
			sigwaitinfo(&child, NULL);
}

/* Returns the room's process 1, as seen from outside. */
static pid_t start_room(const char *environment)
{
	int ready[2];
	char done;
	pid_t room;

	if (pipe2(ready, O_CLOEXEC) != 0)
		die("pipe");
	room = syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
	if (room < 0)
		die("make the room");
	if (room == 0) {
		make_room(environment);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		close(ready[0]);
		close(ready[1]);
		serve_room();
	}
	close(ready[1]);
	/* Without an answer, die() in the room has printed why. */
	if (read(ready[0], &done, 1) != 1)
		end_vm();
	close(ready[0]);
	return room;
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
static void run_agent(char *const argv[], char *const envp[], pid_t room)
{
	pid_t agent = fork();
	char path[64];
	int status;

	if (agent < 0)
		die("fork");
	if (agent == 0) {
		setsid();
		/* Children of the agent are in the room's pid namespace, the agent is not. */
		snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)room);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || setns(fd, CLONE_NEWPID) != 0)
			die("enter the room's pid namespace");
		execve(argv[0], argv, envp);
		fprintf(stderr, "neurovisor-init: start %s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	for (;;) {
		pid_t ended = waitpid(-1, &status, 0);

		if (ended == agent)
			break;
		/* By reboot(2) in the room, which so ends the VM as one outside would. */
		if (ended == room)
			end_vm();
		if (ended < 0 && errno != EINTR)
			die("wait for the agent");
	}
	/* src/sandbox/contract/ending.ts reads these two lines. */
	if (WIFSIGNALED(status))
		fprintf(stderr, "neurovisor-init: the agent was ended by signal %d\n", WTERMSIG(status));
	else
		fprintf(stderr, "neurovisor-init: the agent ended with status %d\n", WEXITSTATUS(status));
	end_vm();
}

int main(void)
{
	struct timespec now;
	char started[32], room_pid[32];
	const char *overlay;
	pid_t room;
	char *const argv[] = { "/usr/bin/python3", "-I", "-S", SHARED "/agent/__main__.py",
			       NULL };
	char *envp[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			 "LANG=C.UTF-8", NULL, NULL, NULL, NULL };

	clock_gettime(CLOCK_BOOTTIME, &now);
	snprintf(started, sizeof(started), "NEUROVISOR_INIT_NS=%lld",
		 (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
	umask(0022);
	mount_kernel_filesystems();
	overlay = mount_scratch();
	mount_shared();
	mount_devices();
	bring_loopback_up();
	set_limits();
	/* The kernel passes an argument that it does not know itself to init, as a variable. */
	room = start_room(getenv("neurovisor_environment"));
	snprintf(room_pid, sizeof(room_pid), "NEUROVISOR_ROOM=%d", (int)room);
	envp[2] = started;
	envp[3] = strcmp(overlay, "disk") == 0 ? "NEUROVISOR_OVERLAY=disk"
					       : "NEUROVISOR_OVERLAY=memory";
	envp[4] = room_pid;
	run_agent(argv, envp, room);
}

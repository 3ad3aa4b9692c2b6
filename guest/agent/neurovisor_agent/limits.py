"""Every limit of the agent, with its unit."""

PORT_HELLO = 1024
PORT_INFERENCE = 1025
PORT_PACKAGES = 1026
PORT_OPERATIONS = 5000
INFERENCE_TCP_PORT = 11434
PACKAGES_TCP_PORT = 11435

# Wire. The welcome may carry 32 KiB of environment, which JSON escapes can make 6 times longer.
REQUEST_LINE_BYTES = 64 * 1024
WELCOME_LINE_BYTES = 256 * 1024
HANDSHAKE_LINE_BYTES = 64
FRAME_PAYLOAD_BYTES = 64 * 1024
BODY_BYTES = 16 * 1024 * 1024
REQUEST_WAIT_S = 10.0

# Streams: a reader pauses when its sink holds this much.
CHUNK_BYTES = 32 * 1024
OUTBOX_BYTES = 256 * 1024
STDIN_BYTES = 256 * 1024
# The newest output of each stream of a program that is kept. One frame.
KEPT_BYTES = 64 * 1024
# The most a pipe can hold (fs.pipe-max-size); its content at the end is delivered.
PIPE_BYTES = 1024 * 1024

# Counts. The agent's soft limit of open files is 1024; an operation needs at most 6 of them.
OPERATIONS = 128
FORWARDS = 64
ARGUMENTS = 4096
TEXT_CHARACTERS = 4096
# Programs whose output and end are kept after their end. With those that run, at most 24 MiB of output is kept.
ENDED_PROCESSES = 64

# Endings.
TERM_GRACE_S = 2.0
PIPE_GRACE_S = 0.3
LINGER_S = 1.0
# From the end of a program's connection until it is known whether the host was lost with it.
HOST_LOSS_S = 0.5
WARM_S = 180.0
# What the fork server reports of its warm list. The host takes an event of 64 KiB.
WARM_REPORT_BYTES = 60 * 1024
FORK_SERVER_LINE_BYTES = 64 * 1024
# From a launch to the answer. A fork takes milliseconds; user code may be frozen for `HOLD_S` meanwhile.
LAUNCH_S = 30.0
# From its end to that of its connection, should another process hold the socket.
FORK_SERVER_END_S = 0.2
# When the fork server could not be started for lack of descriptors, processes or memory.
FORK_SERVER_RETRY_S = 1.0
# After which one of its deaths no longer counts. No timer: an idle sandbox must not wake up.
FORK_SERVER_FORGET_S = 60.0
# Files of the sandbox may be such that installing the certificate blocks. With CARD_WAIT_S less than HELLO_WAIT_S, or
# the host would never get the problem.
TRUST_S = 4.0
# Likewise for the working directory of an image, once per boot.
WORKDIR_S = 0.9
# Volumes of a welcome: how long to wait for their disks, and to mount them, which may replay a journal. At the same time as
# the three above, and less than HELLO_WAIT_S.
VOLUMES = 8
VOLUME_WAIT_S = 4.0
VOLUME_MOUNT_S = 5.5
# Poll interval for the exit of a child when no descriptor is left for its pidfd.
REAP_RETRY_S = 0.05
# How long output is held after `settle` for the connections to end; if they stay it flows again.
SETTLE_HOLD_S = 5.0
# How long user code stays frozen after `settle` if the VM is not stopped. The host takes up to 10 s for each device.
SETTLE_FREEZE_S = 45.0
# How long `settle` may take: the host waits as long for an answer. Then user code is thawed, and the answer is an error.
SETTLE_S = 60.0
# How long `settle` waits for user code to stop: a program may wait for a slow disk.
FREEZE_POLL_S = 0.02
FREEZE_POLLS = 500

# Files.
LIST_ENTRIES = 20_000
LIST_DEPTH = 32
# Names and values of a file's metadata, as an entry shows them; JSON may make them six times longer, and a line has
# 64 KiB. A write may set a quarter: the attributes of a file in ext4 share one block.
METADATA_BYTES = 6 * 1024
# Ends of the names of files that are being written, for a new file and for one that exists.
CREATING = ".new.part"
REPLACING = ".old.part"
# Renames under way that a watch remembers.
RENAMES = 256
WATCHES = 2048

# The account files of the image: bytes and entries of each, and groups of one user. What is beyond does not count.
ACCOUNT_FILE_BYTES = 256 * 1024
ACCOUNTS = 4096
GROUPS_OF_USER = 1024

# Events on the control connection: token bucket.
EVENTS_BURST = 100
EVENTS_PER_S = 50.0
EVENT_QUEUE_BYTES = 256 * 1024
MESSAGE_CHARACTERS = 500

# A throttled process raises `high` thousands of times a second: intervals between reads, and between events.
MEMORY_LOOK_S = 0.1
PRESSURE_HOLD_OFF_S = 1.0
NEAR_OOM_REPEAT_S = 5.0
PRESSURE_OVER_S = 2.0
# The longest that user code is frozen while the host adds memory.
HOLD_S = 10.0
# Fractions of `memory.high`. Reclaimable page cache alone can reach it, so only unreclaimable memory counts.
PRESSURE_FRACTION = 0.75
NEAR_OOM_FRACTION = 0.95
# The PSI trigger: stall time within a window, microseconds.
STALL_US = 150_000
STALL_WINDOW_US = 1_000_000
# The kernel counts a kill before it names the victim, and before the victim's memory is free.
VICTIM_WAIT_S = 0.2
# Victims that are remembered, and records of /dev/kmsg read in one turn.
VICTIMS = 64
KMSG_RECORDS = 256
NAME_CHARACTERS = 64

# Dialling: a uevent makes the agent try at once; this is the fallback.
DIAL_RETRY_MIN_S = 0.05
DIAL_RETRY_MAX_S = 2.0
HELLO_WAIT_S = 10.0

# The network card is plugged beside the vsock device: how long to wait for it, and how often to look.
CARD_WAIT_S = 5.0
CARD_LOOK_S = 0.005

# How long a client waits for the bridge: with the host linked, and without. The first covers the moment
# between the loss of the device and the loss of the link.
FORWARD_LINKED_S = 0.5
FORWARD_UNLINKED_S = 30.0
FORWARD_RETRY_MAX_S = 0.2

# Limits of user code when the welcome has none: all but what the agent and the kernel need.
MEMORY_RESERVE_BYTES = 48 * 1024 * 1024
MEMORY_RESERVE_FRACTION = 0.1
MEMORY_HIGH_FRACTION = 0.94
PIDS = 512

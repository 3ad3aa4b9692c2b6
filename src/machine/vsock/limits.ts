/** The limits of the vsock device, each with what happens beyond it. */
import { assert } from '../../base/assert.ts';
import { MIB } from '../../base/units.ts';

/** Connections of one guest, in any state; more are reset (guest) or closed (host). */
export const CONNECTIONS_MAX = 1024;
/** Host clients of one guest that have not sent their CONNECT line; more wait in the backlog. */
export const HANDSHAKES_MAX = 64;
/** From connecting to the whole CONNECT line; then the client is closed. */
export const HANDSHAKE_TIMEOUT_MS = 5_000;
/** `CONNECT <port>\n` with its line feed; a longer line closes the client. */
export const CONNECT_LINE_BYTES_MAX = 64;
/** From a connection request to the guest's answer; then both sides see the connection fail. */
export const REQUEST_TIMEOUT_MS = 5_000;
/** How long a full backlog at `<channel>_<port>` is retried before the guest is refused. */
export const BACKLOG_TIMEOUT_MS = 1_500;
/** Between two tries at a full backlog. */
export const BACKLOG_RETRY_MS = 5;
/** From our SHUTDOWN to the guest's RST, as in Linux (VSOCK_CLOSE_TIMEOUT); then we reset. */
export const CLOSE_TIMEOUT_MS = 8_000;
/** How long bytes that a guest sent before it vanished may still flow to slow host sockets. */
export const LINGER_MS = 2_000;

/** Bytes held for all connections of one guest, for host sockets that would block. */
export const HELD_BYTES_MAX = 64 * MIB;
/** Maximum (Linux's own default) and minimum receive window (`buf_alloc`) of a connection, out of that. */
export const WINDOW_BYTES_MAX = 256 * 1024;
export const WINDOW_BYTES_MIN = 16 * 1024;

/** Resets of unknown connections that wait for room in the RX ring; more are dropped and counted. */
export const RESETS_QUEUED_MAX = 1024;
/** Longest payload of one packet to the guest, as Linux sends it (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE). */
export const PACKET_BYTES_MAX = 64 * 1024;
/** Bytes moved for one connection before the next one gets its turn. */
export const TURN_BYTES_MAX = 256 * 1024;
/** Bytes moved by one spend of a token bucket: the "one buffer" of R-IO-3. */
export const GRANT_BYTES_MAX = 64 * 1024;

/** Entries of a ring (VHOST_USER_SET_VRING_NUM); QEMU uses 128. More is a protocol error. */
export const QUEUE_SIZE_MAX = 1024;
/** Pieces of one read or write (IOV_MAX is 1024); a longer list is cut into several calls. */
export const SEGMENTS_MAX = 512;
/**
 * Memory of the thread for bytes that are copied from and to guests, used by one ring at a time. Untouched pages cost
 * nothing. The rest waits for the ring's next turn.
 */
export const SCRATCH_BYTES = 4 * MIB;
/** Regions of guest memory in one SET_MEM_TABLE. More is a protocol error. */
export const MEMORY_REGIONS_MAX = 32;
/**
 * Descriptors that the kernel lets one message carry (SCM_MAX_FD). With less room here the kernel would close the rest
 * on this thread.
 */
export const MESSAGE_FDS_MAX = 253;
/** Total guest memory. More is a protocol error. */
export const GUEST_MEMORY_BYTES_MAX = 2 ** 40;
/** Payload of a vhost-user message; the longest legal one is a full memory table. */
export const VHOST_PAYLOAD_BYTES_MAX = 8 + 32 * MEMORY_REGIONS_MAX;

assert(WINDOW_BYTES_MIN * CONNECTIONS_MAX <= HELD_BYTES_MAX, 'every connection gets its least window');

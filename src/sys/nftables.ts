/**
 * The library that the command `nft` is made of (libnftables(3); `libnftables1`, which the package `nftables`
 * needs). It takes and gives the same text, without a process for each. It acts in this process' network
 * namespace, on a thread of libuv's pool.
 */
import { readdirSync } from 'node:fs';
import koffi from 'koffi';
import { ignore } from '../base/ignore.ts';
import { libc } from './libc.ts';

const LIBRARY = 'libnftables.so.1';
/** NFT_CTX_OUTPUT_JSON: for what is read as well as for what is printed. */
const JSON_TEXT = 1 << 4;
/** Contexts that are kept for the next call. */
const IDLE_MAX = 1;

export interface NftablesAnswer {
  readonly ok: boolean;
  /** What `nft` would print, and where it would. */
  readonly output: string;
  readonly errors: string;
}

/** A `struct nft_ctx *`: a netlink socket, buffers, and what was read of the kernel's rules at last. */
type Context = unknown;

/**
 * Runs commands of one transaction, in JSON or as `nft` takes them as arguments.
 * @returns undefined where the library is absent or has no memory for it
 */
export async function runNftables(commands: string): Promise<NftablesAnswer | undefined> {
  const nft = functions();
  const context = nft === null ? undefined : (idle.pop() ?? createContext(nft));
  if (nft === null || context === undefined) return undefined;
  const text = Buffer.from(`${commands}\0`);
  inUse.add(text);
  try {
    const status = await new Promise<number>((resolve, reject) => {
      nft.run.async(context, text, (error: unknown, result: number) =>
        error === null || error === undefined ? resolve(result) : reject(error),
      );
    });
    return {
      ok: status === 0,
      output: String(nft.output(context) ?? ''),
      errors: String(nft.errors(context) ?? ''),
    };
  } finally {
    inUse.delete(text);
    retire(nft, context);
  }
}

/** The library reads them through their addresses, on its thread. */
const inUse = new Set<Buffer>();
/**
 * Kept, since the kernel lets a socket go only when it has freed what was deleted, 10 ms later. Whether what
 * a context has read is still true, it asks the kernel at each call.
 */
const idle: Context[] = [];

function createContext(nft: Functions): Context | undefined {
  const context: Context = nft.create(0);
  if (context === null) return undefined;
  closeSocketsByExec();
  nft.setOutput(context, JSON_TEXT);
  if (nft.bufferOutput(context) === 0 && nft.bufferErrors(context) === 0) return context;
  nft.free(context);
  return undefined;
}

function retire(nft: Functions, context: Context): void {
  if (idle.length < IDLE_MAX) idle.push(context);
  else nft.free.async(context, (error: unknown) => ignore(error, 'freed on another thread'));
}

const cFcntl = libc.func('int fcntl(int fd, int command, int value)');
const cGetsockopt = libc.func(
  'int getsockopt(int fd, int level, int name, _Out_ int *value, _Inout_ uint32_t *bytes)',
);
const F_GETFD = 1;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const SOL_SOCKET = 1;
const SO_PROTOCOL = 38;
const SO_DOMAIN = 39;
const AF_NETLINK = 16;
const NETLINK_NETFILTER = 12;

/** The library's own is not; a VMM has no business with it. */
function closeSocketsByExec(): void {
  const option = (fd: number, name: number): number => {
    const [value, bytes] = [[-1], [4]];
    return cGetsockopt(fd, SOL_SOCKET, name, value, bytes) < 0 ? -1 : (value[0] ?? -1);
  };
  for (const fd of readdirSync('/proc/self/fd').map(Number)) {
    const flags: number = cFcntl(fd, F_GETFD, 0);
    if (flags < 0 || (flags & FD_CLOEXEC) !== 0) continue;
    const isOurs =
      option(fd, SO_DOMAIN) === AF_NETLINK && option(fd, SO_PROTOCOL) === NETLINK_NETFILTER;
    if (isOurs) cFcntl(fd, F_SETFD, flags | FD_CLOEXEC);
  }
}

type Functions = ReturnType<typeof load>;
let loaded: Functions | null | undefined;

function functions(): Functions | null {
  if (loaded !== undefined) return loaded;
  try {
    loaded = load();
  } catch (error) {
    ignore(error, 'no library of nftables: who asks has another way');
    loaded = null;
  }
  return loaded;
}

function load() {
  const library = koffi.load(LIBRARY);
  return {
    create: library.func('void *nft_ctx_new(uint32_t flags)'),
    free: library.func('void nft_ctx_free(void *context)'),
    setOutput: library.func('void nft_ctx_output_set_flags(void *context, uint32_t flags)'),
    bufferOutput: library.func('int nft_ctx_buffer_output(void *context)'),
    bufferErrors: library.func('int nft_ctx_buffer_error(void *context)'),
    output: library.func('const char *nft_ctx_get_output_buffer(void *context)'),
    errors: library.func('const char *nft_ctx_get_error_buffer(void *context)'),
    run: library.func('int nft_run_cmd_from_buffer(void *context, const void *text)'),
  };
}

/**
 * The library behind the command `nft` (libnftables(3); `libnftables1`, which the package `nftables` needs). It takes
 * and returns the same text, without a child process. It acts in this process's network namespace, on a thread of
 * libuv's pool.
 */
import koffi from 'koffi';
import { ignore, tryOr } from '../base/ignore.ts';
import { CAPABILITY, hasCapability } from './capability.ts';
import { closeAllOnExec } from './close-on-exec.ts';
import { closeFd, createEventFd } from './fd.ts';
import { SyscallError } from './libc.ts';
import { NETLINK, NetlinkSocket } from './netlink-socket.ts';

const LIBRARY = 'libnftables.so.1';
/** NFT_CTX_OUTPUT_JSON: for input and output. */
const JSON_TEXT = 1 << 4;
/** Contexts, created at the first call; a call waits if all are busy. */
const CONTEXTS = 2;
/** Maximum waiting calls; beyond, the caller must use another way. */
const WAITING_MAX = 1_024;
/** Free descriptors that creating the contexts needs, beside a socket for each. */
const SPARE_FDS = 16;

export interface NftablesAnswer {
  readonly ok: boolean;
  /** As `nft` would print it to stdout and stderr. */
  readonly output: string;
  readonly errors: string;
}

/** A `struct nft_ctx *`: a netlink socket, buffers, and a cache of the kernel's rules. */
type Context = unknown;

/**
 * Runs the commands of one transaction, in JSON or in the syntax of `nft`.
 * @returns undefined if the library is missing, lacks permission or resources, or is too busy
 */
export async function runNftables(commands: string): Promise<NftablesAnswer | undefined> {
  contexts ??= createContexts();
  if (contexts === undefined || waiting.length >= WAITING_MAX) return undefined;
  const { nft, idle } = contexts;
  const context = idle.pop() ?? (await new Promise<Context>((resolve) => waiting.push(resolve)));
  const text = Buffer.from(`${commands}\0`);
  inUse.add(text);
  try {
    const status = await new Promise<number>((resolve, reject) => {
      nft.run.async(context, text, (error: unknown, result: number) =>
        error === null || error === undefined ? resolve(result) : reject(error),
      );
    });
    return { ok: status === 0, output: String(nft.output(context) ?? ''), errors: String(nft.errors(context) ?? '') };
  } finally {
    inUse.delete(text);
    const next = waiting.shift();
    if (next === undefined) idle.push(context);
    else next(context);
  }
}

/** The library reads them by address, on its thread. */
const inUse = new Set<Buffer>();
const waiting: ((context: Context) => void)[] = [];
/** At each call, a context asks the kernel whether its cache of rules is still valid. */
let contexts: { readonly nft: Functions; readonly idle: Context[] } | undefined;

/** @returns undefined without library, permission or resources */
function createContexts(): typeof contexts {
  // Without it, the library would fail and also print to this process's stderr; a child process reports properly.
  if (!hasEnough() || !hasCapability(CAPABILITY.NET_ADMIN)) return undefined;
  const nft = functions();
  if (nft === null) return undefined;
  const idle: Context[] = [];
  while (idle.length < CONTEXTS) {
    const context: Context = nft.create(0);
    if (context === null) break;
    nft.setOutput(context, JSON_TEXT);
    if (nft.bufferOutput(context) === 0 && nft.bufferErrors(context) === 0) idle.push(context);
    else {
      nft.free(context);
      break;
    }
  }
  // The library does not mark its sockets, which no VMM may inherit.
  closeAllOnExec();
  return idle.length === 0 ? undefined : { nft, idle };
}

/**
 * If the library gets no socket, it ends the whole process by exit(3) (`netlink_open_error`). So this is tried first,
 * with some spare descriptors.
 */
function hasEnough(): boolean {
  const sockets: NetlinkSocket[] = [];
  const spare: number[] = [];
  try {
    while (sockets.length < CONTEXTS) sockets.push(new NetlinkSocket(NETLINK.netfilter));
    while (spare.length < SPARE_FDS) spare.push(createEventFd());
    return true;
  } catch (error) {
    if (!(error instanceof SyscallError)) throw error;
    ignore(error, 'too few descriptors, or no netlink: a child process reports it');
    return false;
  } finally {
    for (const socket of sockets) socket.close();
    for (const fd of spare) closeFd(fd);
  }
}

type Functions = ReturnType<typeof load>;
let loaded: Functions | null | undefined;

function functions(): Functions | null {
  if (loaded === undefined) loaded = tryOr(null, 'no nftables library: the caller uses a child process', load);
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

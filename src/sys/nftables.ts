/**
 * The library that the command `nft` is made of (libnftables(3); `libnftables1`, which the package `nftables`
 * needs). It takes and gives the same text, without a process for each. It acts in this process' network
 * namespace, on a thread of libuv's pool.
 */
import koffi from 'koffi';
import { ignore } from '../base/ignore.ts';
import { CAPABILITY, hasCapability } from './capability.ts';
import { closeAllOnExec } from './close-on-exec.ts';
import { closeFd, createEventFd } from './fd.ts';
import { SyscallError } from './libc.ts';
import { NETLINK, NetlinkSocket } from './netlink-socket.ts';

const LIBRARY = 'libnftables.so.1';
/** NFT_CTX_OUTPUT_JSON: for what is read as well as for what is printed. */
const JSON_TEXT = 1 << 4;
/** Made at the first call, and never again: a call that finds all busy waits for one. */
const CONTEXTS = 2;
/** Calls that wait; beyond it a caller is to find another way. */
const WAITING_MAX = 1_024;
/** Descriptors that must be free, beside a socket for each context, when they are made. */
const SPARE_FDS = 16;

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
 * @returns undefined where the library is absent, may not, has too little to start with, or too much to do
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
    return {
      ok: status === 0,
      output: String(nft.output(context) ?? ''),
      errors: String(nft.errors(context) ?? ''),
    };
  } finally {
    inUse.delete(text);
    const next = waiting.shift();
    if (next === undefined) idle.push(context);
    else next(context);
  }
}

/** The library reads them through their addresses, on its thread. */
const inUse = new Set<Buffer>();
const waiting: ((context: Context) => void)[] = [];
/** Whether what a context has read of the kernel's rules is still true, it asks the kernel at each call. */
let contexts: { readonly nft: Functions; readonly idle: Context[] } | undefined;

/** @returns undefined where there is no library, no permission, or too little for it just now */
function createContexts(): typeof contexts {
  // It would refuse, and say so on this process' stderr beside its buffer; a process is asked, and tells it.
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
  // The library does not mark its sockets; a VMM has no business with them.
  closeAllOnExec();
  return idle.length === 0 ? undefined : { nft, idle };
}

/**
 * Where it can have no socket, the library does not return: it ends the whole process by exit(3)
 * (`netlink_open_error`). So the same is tried before, with some descriptors more than it takes.
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
    ignore(error, 'too few descriptors, or no netlink here: a process is asked, and tells it');
    return false;
  } finally {
    for (const socket of sockets) socket.close();
    for (const fd of spare) closeFd(fd);
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

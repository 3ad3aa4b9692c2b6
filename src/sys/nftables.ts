/**
 * The library that the command `nft` is made of (libnftables(3); `libnftables1`, which the package `nftables`
 * needs). It takes and gives the same text, without a process for each. It acts in this process' network
 * namespace, on a thread of libuv's pool.
 */
import koffi from 'koffi';
import { ignore } from '../base/ignore.ts';

const LIBRARY = 'libnftables.so.1';
/** NFT_CTX_OUTPUT_JSON: for what is read as well as for what is printed. */
const JSON_TEXT = 1 << 4;

export interface NftablesAnswer {
  readonly ok: boolean;
  /** What `nft` would print, and where it would. */
  readonly output: string;
  readonly errors: string;
}

/** Whether this host has the library. */
export function hasNftables(): boolean {
  return functions() !== null;
}

/**
 * Runs commands of one transaction, in JSON or as `nft` takes them as arguments. Each call has a context of
 * its own (25 µs), so that no call sees what another has read of the kernel's rules, or left after an error.
 * @returns undefined where the library is absent or has no memory for it
 */
export async function runNftables(commands: string): Promise<NftablesAnswer | undefined> {
  const nft = functions();
  const context: unknown = nft?.create(0);
  if (nft === null || context === null) return undefined;
  const text = Buffer.from(`${commands}\0`);
  inUse.add(text);
  try {
    nft.setOutput(context, JSON_TEXT);
    if (nft.bufferOutput(context) !== 0 || nft.bufferErrors(context) !== 0) return undefined;
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
    nft.free(context);
  }
}

/** The library reads them through their addresses, on its thread. */
const inUse = new Set<Buffer>();

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

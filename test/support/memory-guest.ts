/**
 * A guest in memory: files, programs that echo their input, and no lasting processes. Paths have the same meaning as in
 * a guest: relative ones start at the home.
 */
import { posix } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { GuestError } from '../../src/machine/guest/errors.ts';
import type {
  ExecSpec,
  FileEntry,
  FileOptions,
  Guest,
  GuestFiles,
  GuestInfo,
  Process,
  PythonSpec,
  RunOptions,
} from '../../src/machine/guest/guest.ts';
import { EXIT } from './process-exit.ts';

const HOME = '/home/user';
const USERS = new Set(['user', 'root']);
const BYTES_MAX = 1 << 20;

export const MEMORY_GUEST_INFO: GuestInfo = {
  agentVersion: '0',
  pythonVersion: '3.11.0',
  kernelToInitMs: 1,
  initToAgentMs: 1,
  agentToHelloMs: 1,
  helloMs: 1,
  readyMs: 1,
  overlay: 'none',
  cgroup: false,
  problems: [],
};

/** Replaces the operations of `guest` that REST uses. */
export function memoryGuest(guest: Guest, files: MemoryFiles): Guest {
  const start = async (spec: RunOptions, echo: string): Promise<Process> => {
    checkUser(spec.user);
    return echoProcess(spec, echo);
  };
  const made: Partial<Guest> = {
    info: MEMORY_GUEST_INFO,
    files: files as unknown as GuestFiles,
    exec: (spec: ExecSpec) => start(spec, spec.argv.join(' ')),
    python: (spec: PythonSpec) => start(spec, JSON.stringify(spec.script)),
    processes: async () => [],
    endedProcesses: async () => [],
    keptOutput: async (pid) => noProgram(pid),
    logs: async (pid) => noProgram(pid),
  };
  return new Proxy(guest, { get: (target, name) => Reflect.get(name in made ? made : target, name) as unknown });
}

function noProgram(pid: number): never {
  throw new GuestError('not_found', `no program ${pid} runs, or is kept after its end`);
}

/** Prints `echo` and then its input, within its output limit. */
function echoProcess(spec: RunOptions, echo: string): Process {
  const stdin = new PassThrough();
  const stdout = new PassThrough();
  const exit = (async () => {
    const printed = Buffer.from(echo + (spec.stdin === false ? '' : await text(stdin)));
    const kept = printed.subarray(0, spec.outputBytesMax ?? Infinity);
    stdout.end(kept);
    return { ...EXIT, truncated: kept.length < printed.length };
  })();
  const nothing = (): void => undefined;
  const stderr = new PassThrough().end() as unknown as Readable;
  return { pid: 1, warm: false, stdin, stdout, stderr, exit, resize: async () => undefined, kill: nothing };
}

/** Files by path; directories are implied. */
export class MemoryFiles {
  readonly #files = new Map<string, { readonly content: Buffer; readonly mode: number }>();

  async read(path: string, options: FileOptions = {}): Promise<Readable> {
    const where = absolute(path, options);
    const file = this.#files.get(where);
    if (file === undefined) throw this.#missing(where);
    return Readable.from([file.content]);
  }

  async write(
    path: string,
    content: string | Uint8Array | AsyncIterable<Uint8Array>,
    options: FileOptions & { readonly mode?: number } = {},
  ): Promise<FileEntry> {
    const where = absolute(path, options);
    const parts: Uint8Array[] = [];
    let bytes = 0;
    const chunks = typeof content === 'string' ? [Buffer.from(content)] : content;
    for await (const chunk of chunks as AsyncIterable<Uint8Array>) {
      bytes += chunk.length;
      if (bytes > BYTES_MAX) throw new GuestError('disk_full', `write ${path}: no space left`);
      parts.push(chunk);
    }
    if (where === '/' || this.#isDirectory(where)) {
      throw new GuestError('already_exists', `write ${path}: a directory`);
    }
    this.#files.set(where, { content: Buffer.concat(parts), mode: options.mode ?? 0o644 });
    return this.#entry(where);
  }

  async *entries(
    path: string,
    options: FileOptions & { readonly depth?: number } = {},
  ): AsyncGenerator<FileEntry, void> {
    const where = absolute(path, options);
    if (where !== HOME && where !== '/' && !this.#isDirectory(where)) throw this.#missing(where);
    const below = where === '/' ? '/' : `${where}/`;
    const { depth = 1 } = options;
    const found = new Set<string>();
    for (const file of this.#files.keys()) {
      if (!file.startsWith(below)) continue;
      const names = file.slice(below.length).split('/').slice(0, depth);
      for (const [n] of names.entries()) found.add(below + names.slice(0, n + 1).join('/'));
    }
    for (const one of [...found].sort()) yield this.#entry(one);
  }

  async remove(path: string, options: FileOptions = {}): Promise<void> {
    const where = absolute(path, options);
    const below = [...this.#files.keys()].filter((file) => file === where || file.startsWith(`${where}/`));
    if (below.length === 0) throw this.#missing(where);
    for (const file of below) this.#files.delete(file);
  }

  #isDirectory(path: string): boolean {
    return [...this.#files.keys()].some((file) => file.startsWith(`${path}/`));
  }

  #missing(path: string): GuestError {
    return new GuestError('not_found', `${path}: there is none`);
  }

  #entry(path: string): FileEntry {
    const file = this.#files.get(path);
    return {
      name: posix.basename(path),
      path,
      type: file === undefined ? 'directory' : 'file',
      bytes: file?.content.length ?? 0,
      mode: file?.mode ?? 0o755,
      owner: 'user',
      group: 'user',
      modifiedMs: 0,
      symlinkTarget: null,
    };
  }
}

function absolute(path: string, { user }: FileOptions): string {
  checkUser(user);
  if (path.includes('\0')) throw new GuestError('invalid_request', 'a path has no NUL');
  const home = path.replace(/^~(?=\/|$)/, HOME);
  return posix.resolve(HOME, home);
}

function checkUser(user = 'user'): void {
  if (!USERS.has(user)) throw new GuestError('invalid_request', `there is no user ${user}`);
}

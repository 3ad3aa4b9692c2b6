/** What the rest of the program sees of a guest: its operations and their results (types only). */
import type { Duplex, Readable, Writable } from 'node:stream';
import type { GuestNetwork } from '../base/guest-network.ts';

/** A guest whose agent has confirmed its identity. Every operation is one connection of its own. */
export interface Guest {
  readonly info: GuestInfo;
  readonly files: GuestFiles;
  /** Resolves once the program runs. @throws GuestError */
  exec(spec: ExecSpec, signal?: AbortSignal): Promise<Process>;
  /** Runs a script in a fork of the warmed interpreter. @throws GuestError */
  python(spec: PythonSpec, signal?: AbortSignal): Promise<Process>;
  /**
   * Takes over the streams of a running program. Output before this moment is not replayed, but for the
   * newest 64 KiB per stream that a program has said since `settle` took its connection away; its end is
   * told too, if that has come since.
   */
  attach(pid: number, signal?: AbortSignal): Promise<Process>;
  /** Sends `signal` to the whole process group. False when there is no such process. */
  signal(pid: number, signal: SignalName): Promise<boolean>;
  /** Raw bytes to a TCP port on the guest's loopback. */
  connect(port: number, signal?: AbortSignal): Promise<Duplex>;
  stats(): Promise<GuestStats>;
  /**
   * Before the sandbox is saved: each program that runs, or is started until the next hello, lives on when
   * its connection ends; files are written out. Output waits in the guest until the connections have gone,
   * at most 5 s. `dropCaches`: the guest gives its caches back, so that there is less to save.
   * @throws GuestError
   */
  settle(options?: { readonly dropCaches?: boolean }, signal?: AbortSignal): Promise<void>;
  /** Changes what is given, all or nothing; programs that run keep their environment. @throws GuestError */
  update(change: GuestChange, signal?: AbortSignal): Promise<void>;
  /** The processes that were started by `exec` and `python` and still run. */
  processes(): Promise<readonly ProcessInfo[]>;
  /** Calls `listener` for each event of the guest, at most about 100 a second. Returns how to stop. */
  events(listener: (event: GuestEvent) => void): () => void;
  /** Resolves when the control connection is gone, whatever the cause. Never rejects. */
  readonly closed: Promise<GuestClosed>;
  /**
   * To be called before the vsock device is unplugged: from now on what ends fails with `suspended`, and
   * nothing new is started. The connections stay until they are lost, or until `close`. Idempotent.
   */
  suspend(): void;
  /** Drops the control connection and every open operation. Idempotent. */
  close(): void;
}

export interface GuestChange {
  /** Steps the guest's clock to this time, milliseconds since 1970. */
  readonly wallMs?: number | undefined;
  /** Replaces the sandbox's environment, for programs started later. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Replaces all limits: one that is not given gets its default. */
  readonly limits?: GuestLimits | undefined;
  /** Configures the network card, which is plugged by then or within seconds; null: there is none. */
  readonly network?: GuestNetwork | null | undefined;
  /** PEM: in which the guest is to trust; null: in those of its image only. */
  readonly authority?: string | null | undefined;
}

/** All optional: the agent has a default for each (`spec/guest-protocol.md`, section 3). */
export interface GuestLimits {
  /** User code stands still so long when `near_oom` is told, once and until the next limits; default: it does not. */
  readonly holdMs?: number;
  /** All user code together is slowed down above this; default 94 % of `memoryMaxBytes`. */
  readonly memoryHighBytes?: number;
  /** User code is killed above this; default all but max(48 MiB, 10 %) of the guest's memory. */
  readonly memoryMaxBytes?: number;
  /** Processes and threads of the user together; default 512. */
  readonly pidsMax?: number;
  /** Default of `RunOptions.outputBytesMax`; without it output is not limited. */
  readonly outputBytesMax?: number;
}

export interface GuestInfo {
  readonly agentVersion: string;
  readonly pythonVersion: string;
  /** Kernel start to first instruction of init, by the guest's boot clock, milliseconds; null: unknown. */
  readonly kernelToInitMs: number | null;
  /** Init to the agent's first instruction, milliseconds; null: unknown. */
  readonly initToAgentMs: number | null;
  /** The agent's first instruction to its first hello, milliseconds. */
  readonly agentToHelloMs: number;
  /** Hello received to identity confirmed, by the host's clock, milliseconds. */
  readonly helloMs: number;
  /** Its connection to identity confirmed, by the host's clock, milliseconds; of a pool that was before it was asked for. */
  readonly readyMs: number;
  /** Where the guest's writes go; `none`: the agent runs outside a VM. */
  readonly overlay: 'disk' | 'memory' | 'none';
  /** User code runs in a cgroup of its own, so the agent survives its memory and process floods. */
  readonly cgroup: boolean;
  /** What the agent could not do, in sentences for people; empty in a proper guest. */
  readonly problems: readonly string[];
}

/** Names of Linux signals that may be sent. */
export type SignalName =
  | 'SIGHUP'
  | 'SIGINT'
  | 'SIGQUIT'
  | 'SIGKILL'
  | 'SIGUSR1'
  | 'SIGUSR2'
  | 'SIGTERM'
  | 'SIGCONT'
  | 'SIGSTOP'
  | 'SIGTSTP'
  | 'SIGWINCH';

export interface TerminalSize {
  readonly cols: number;
  readonly rows: number;
}

export interface RunOptions {
  /** Added to the sandbox's environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Absolute, or relative to the user's home; default: the home. */
  readonly cwd?: string;
  /** Name of a guest user; default `user`. */
  readonly user?: string;
  /** False: the program's stdin is empty. Default true: `Process.stdin` feeds it. */
  readonly stdin?: boolean;
  /** Run on a terminal of this size; stdout and stderr then arrive together on `stdout`. */
  readonly pty?: TerminalSize;
  /**
   * SIGTERM to all of the program's processes after this long, SIGKILL 2 s later. Default: no limit. It
   * holds on the host as well, 10 s later, if the guest stands still: also one that was paused in memory.
   */
  readonly timeoutMs?: number;
  /** stdout + stderr beyond this are discarded and `truncated` is set. Default: the sandbox's limit. */
  readonly outputBytesMax?: number;
  /** True: the program lives on when its connection ends. Default false: it is killed. */
  readonly detached?: boolean;
  /** Free text that `processes` shows, at most 256 characters. */
  readonly tag?: string;
}

export interface ExecSpec extends RunOptions {
  /** Program (looked up in PATH) and its arguments; no shell is involved. */
  readonly argv: readonly string[];
}

export interface PythonSpec extends RunOptions {
  /**
   * `code` + `name`: like `python3 <name>`, the text is put in a private directory of the guest;
   * `code` alone: like `python3 -c`; `path`: a file that is in the guest.
   */
  readonly script:
    | { readonly code: string | Uint8Array; readonly name?: string }
    | { readonly path: string };
  readonly args?: readonly string[];
  /** False: do not wait for the warm list, start from a cold interpreter at once. Default true. */
  readonly waitWarm?: boolean;
}

export interface Process {
  /** In the guest. */
  readonly pid: number;
  /** Python only: forked from the interpreter that has imported the warm list. */
  readonly warm: boolean;
  /** Ending it ends the program's stdin. */
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  resize(size: TerminalSize): void;
  /** Signals all processes of the program (default SIGKILL). No effect after the exit. */
  kill(signal?: SignalName): void;
  /**
   * Resolves when the program has ended and its output has been handed over to the streams.
   * Rejects with a GuestError (`connection_lost`, `suspended`, `protocol_error`, `cancelled`) when its end
   * is not known. After `suspended` the program goes on.
   */
  readonly exit: Promise<ProcessExit>;
}

export interface ProcessExit {
  /** Null when a signal ended it. */
  readonly exitCode: number | null;
  /** e.g. `SIGKILL`; null when it ended by itself. */
  readonly signal: string | null;
  /** Its `timeoutMs` ran out and it was ended for that; by the host, if its guest does not answer. */
  readonly timedOut: boolean;
  /** The guest's kernel killed it for want of memory. */
  readonly oomKilled: boolean;
  /**
   * The process of it that the kernel killed last for want of memory; the program itself may have gone on
   * without it. Null: none, or not known.
   */
  readonly oomVictim: OomVictim | null;
  /** Output was discarded: beyond `outputBytesMax`, or while nobody was attached after a `settle`. */
  readonly truncated: boolean;
  /** By the guest's clock, milliseconds. */
  readonly durationMs: number;
}

/** A process that a kernel killed for want of memory. */
export interface OomVictim {
  readonly pid: number;
  /** As it named itself: at most 15 bytes, and whatever it likes. */
  readonly name: string;
  /** That it had in memory. */
  readonly rssBytes: number;
}

export interface ProcessInfo {
  readonly pid: number;
  readonly kind: 'exec' | 'python';
  readonly argv: readonly string[];
  readonly cwd: string;
  readonly user: string;
  readonly tag: string | null;
  readonly pty: boolean;
  readonly detached: boolean;
  /** Milliseconds since it was started. */
  readonly ageMs: number;
}

export interface FileOptions {
  /** Whose permissions, and whose home relative paths start from; default `user`. */
  readonly user?: string;
  readonly signal?: AbortSignal;
}

/** Paths are absolute, or relative to the user's home; `~` and `~/…` are the home. */
export interface GuestFiles {
  /** The content as a stream with back-pressure. */
  read(path: string, options?: FileOptions): Promise<Readable>;
  /** The whole content. @throws GuestError `too_large` above `bytesMax` (default 64 MiB). */
  readAll(path: string, options?: FileOptions & { readonly bytesMax?: number }): Promise<Buffer>;
  /** Replaces the file at once when all content has arrived; makes parent directories. Default mode 0644. */
  write(
    path: string,
    content: string | Uint8Array | AsyncIterable<Uint8Array>,
    options?: FileOptions & { readonly mode?: number },
  ): Promise<FileEntry>;
  stat(path: string, options?: FileOptions): Promise<FileEntry>;
  /** In lexical order; `depth` 1 (default): the directory's own entries. */
  list(
    path: string,
    options?: FileOptions & { readonly depth?: number },
  ): Promise<readonly FileEntry[]>;
  move(from: string, to: string, options?: FileOptions): Promise<FileEntry>;
  /** Recursive. @throws GuestError `not_found` */
  remove(path: string, options?: FileOptions): Promise<void>;
  /** With parents. @throws GuestError `already_exists` */
  makeDirectory(path: string, options?: FileOptions): Promise<FileEntry>;
  watch(
    path: string,
    options: FileOptions & { readonly recursive?: boolean },
    listener: (event: FileEvent) => void,
  ): Promise<FileWatch>;
}

export interface FileEntry {
  readonly name: string;
  readonly path: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'other';
  readonly bytes: number;
  /** Permission bits. */
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
  /** Milliseconds since 1970. */
  readonly modifiedMs: number;
  readonly symlinkTarget: string | null;
}

export interface FileEvent {
  readonly type: 'create' | 'write' | 'remove' | 'rename' | 'chmod' | 'overflow';
  /** Relative to the watched directory. */
  readonly name: string;
}

export interface FileWatch {
  /** Resolves when the watch has ended, whatever the cause. */
  readonly ended: Promise<void>;
  stop(): void;
}

export interface GuestStats {
  readonly cpuCount: number;
  /** Time all CPUs were not idle since boot, milliseconds. */
  readonly cpuBusyMs: number;
  readonly uptimeMs: number;
  readonly memoryTotalBytes: number;
  readonly memoryAvailableBytes: number;
  /** Of user code; null without a cgroup. */
  readonly userMemoryBytes: number | null;
  readonly userProcesses: number | null;
  readonly diskTotalBytes: number;
  readonly diskFreeBytes: number;
  readonly oomKills: number | null;
}

export type GuestEvent =
  /** User code is slowed down for want of memory: beyond `memoryHighBytes`, or standing still often. */
  | {
      readonly type: 'pressure';
      readonly memoryBytes: number;
      readonly highEvents: number;
      /** `memoryMaxBytes`; 0: not known. */
      readonly limitBytes: number;
      /** Percent of the last 10 s in which some of its programs, and all of them, stood still (PSI). */
      readonly some: number;
      readonly full: number;
    }
  /** What user code has and can't give back is close to where the kernel kills. */
  | { readonly type: 'near_oom'; readonly memoryBytes: number; readonly limitBytes: number }
  /** The guest's kernel killed a process of the user for want of memory. */
  | {
      readonly type: 'oom';
      readonly oomKills: number;
      readonly detail: string;
      readonly victim: OomVictim | null;
    }
  /** A process started by an operation ended. */
  | { readonly type: 'exit'; readonly pid: number; readonly exit: ProcessExit }
  /** The warm list is imported, as far as that went. */
  | { readonly type: 'warm'; readonly modules: readonly WarmModule[] }
  | { readonly type: 'log'; readonly level: 'warn' | 'info'; readonly message: string }
  /** Events that the guest or the host dropped because there were too many. */
  | { readonly type: 'dropped'; readonly count: number };

export interface WarmModule {
  readonly name: string;
  readonly durationMs: number;
  /** Null when it was imported. */
  readonly error: string | null;
}

export interface GuestClosed {
  readonly reason: 'closed' | 'lost' | 'suspended' | 'protocol_error';
  readonly detail: string;
}

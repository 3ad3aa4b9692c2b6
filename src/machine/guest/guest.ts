/** The interface of a guest: its operations and their results (types only). */
import type { Duplex, Readable, Writable } from 'node:stream';
import type { GuestNetwork } from '../../base/request/guest-network.ts';

/** A guest whose agent has confirmed its identity. Every operation has a connection of its own. */
export interface Guest {
  readonly info: GuestInfo;
  readonly files: GuestFiles;
  /** Resolves once the program runs. @throws GuestError */
  exec(spec: ExecSpec, signal?: AbortSignal): Promise<Process>;
  /** Runs a script in a fork of the warmed interpreter. @throws GuestError */
  python(spec: PythonSpec, signal?: AbortSignal): Promise<Process>;
  /**
   * Moves the streams of a running program to this caller. Earlier output is not replayed, except after a `settle` or
   * the loss of the host: then what it wrote without a connection comes first, and its exit if it has ended since.
   * With `from`, the output from these offsets on, also of a program that has ended: see `logs`.
   */
  attach(pid: number, options?: { readonly from?: OutputOffsets; readonly signal?: AbortSignal }): Promise<Process>;
  /**
   * Reads along from `from` on (null: no output), up to the program's end, without taking its streams. The guest keeps
   * the newest 64 KiB of each stream, also of the last 64 programs that ended: `Process.from` tells where they begin. A
   * reader that falls behind them loses its connection (`connection_lost`), and may ask again from its offset.
   * @throws GuestError `not_found`; `invalid_request` also if the agent is of a version without it
   */
  logs(pid: number, from: OutputOffsets | null, signal?: AbortSignal): Promise<ProgramOutput>;
  /** The kept output from `from` on (default: all), of `logs`, without waiting for more. */
  keptOutput(pid: number, from?: OutputOffsets, signal?: AbortSignal): Promise<KeptOutput>;
  /**
   * Sends `signal` to the process group; SIGKILL to all processes of the program. Returns false if there is no such
   * process.
   */
  signal(pid: number, signal: SignalName): Promise<boolean>;
  /** Connects to a TCP port on the guest's loopback address. */
  connect(port: number, signal?: AbortSignal): Promise<Duplex>;
  stats(): Promise<GuestStats>;
  /**
   * Prepares the guest to be saved. Programs that run, or start before the next hello, outlive their connections; file
   * systems are synced. The guest holds back output until the connections end, at most 5 s.
   * @throws GuestError
   */
  settle(options?: SettleOptions, signal?: AbortSignal): Promise<void>;
  /** Changes the given settings, all or none; running programs keep their environment. @throws GuestError */
  update(change: GuestChange, signal?: AbortSignal): Promise<void>;
  /** Keeps a connection open for the next `update`, which then takes half the time. Idempotent. */
  expectUpdate(): void;
  /** The running processes that `exec` and `python` started. */
  processes(): Promise<readonly ProcessInfo[]>;
  /** The programs that have ended whose output and exit the guest still has, oldest first. */
  endedProcesses(): Promise<readonly EndedProcess[]>;
  /** Calls `listener` for each event, at most about 100 a second. Returns a function that removes it. */
  events(listener: (event: GuestEvent) => void): () => void;
  /** Resolves when the control connection has ended, for any reason. Never rejects. */
  readonly closed: Promise<GuestClosed>;
  /**
   * Call this before the vsock device is unplugged: operations that end from now on fail with `suspended`, and no new
   * ones start. The connections stay until they are lost, or until `close`. Idempotent.
   */
  suspend(): void;
  /** Drops the control connection and every open operation. Idempotent. */
  close(): void;
}

/** What only reads files. */
export interface GuestReader extends Pick<Guest, 'info'> {
  readonly files: Pick<GuestFiles, 'read' | 'open' | 'readAll' | 'stat' | 'list' | 'entries'>;
}

export interface SettleOptions {
  /** The guest drops its caches, so that there is less to save. */
  readonly dropCaches?: boolean;
  /** Programs and file operations stop before the sync, until the next hello: the disk alone is then consistent. */
  readonly freeze?: boolean;
  /** Fails, and lets everything continue, if a program does not stop within 10 s. */
  readonly mustFreeze?: boolean;
  /** Volumes are frozen after the sync, for a VM that ends: the next one finds no journal to replay. */
  readonly freezeVolumes?: boolean;
}

export interface GuestChange {
  /** Sets the guest's clock to this time, milliseconds since 1970. */
  readonly wallMs?: number | undefined;
  /** Replaces the sandbox's environment, for programs started later. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Replaces all limits: an omitted one gets its default. */
  readonly limits?: GuestLimits | undefined;
  /** Configures the network card, which must be plugged within seconds; `null` removes it. */
  readonly network?: GuestNetwork | null | undefined;
  /** PEM of a certificate that the guest trusts; `null`: only those of its image. */
  readonly authority?: string | null | undefined;
}

/** All optional: the agent has a default for each (`spec/guest-protocol.md`, section 3). */
export interface GuestLimits {
  /** User code is frozen for this many milliseconds at `near_oom`, once until the next limits. Default: not frozen. */
  readonly holdMs?: number;
  /** All user code together is throttled above this. Default: 94 % of `memoryMaxBytes`. */
  readonly memoryHighBytes?: number;
  /** User code is OOM killed above this. Default: all but max(48 MiB, 10 %) of the guest's memory. */
  readonly memoryMaxBytes?: number;
  /** Processes and threads of the user together. Default: 512. */
  readonly pidsMax?: number;
  /** Default of `RunOptions.outputBytesMax`; without it output is not limited. */
  readonly outputBytesMax?: number;
}

export interface GuestInfo {
  readonly agentVersion: string;
  readonly pythonVersion: string;
  /** Kernel start to first instruction of init, by the guest's boot clock, milliseconds; `null` if unknown. */
  readonly kernelToInitMs: number | null;
  /** Init to the agent's first instruction, milliseconds; `null` if unknown. */
  readonly initToAgentMs: number | null;
  /** The agent's first instruction to its first hello, milliseconds. */
  readonly agentToHelloMs: number;
  /** Hello received to identity confirmed, by the host's clock, milliseconds. */
  readonly helloMs: number;
  /**
   * Connection accepted to identity confirmed, by the host's clock, milliseconds; for a pool's sandbox, before its
   * claim.
   */
  readonly readyMs: number;
  /** Where the guest's writes go; `none`: the agent runs outside a VM. */
  readonly overlay: 'disk' | 'memory' | 'none';
  /** True if user code runs in its own cgroup, so that the agent survives its memory and process floods. */
  readonly cgroup: boolean;
  /** Problems that the agent reported, in sentences; empty for a proper guest. */
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
  /** Absolute, or relative to the user's home. Default: the home. */
  readonly cwd?: string;
  /** Name of a guest user. Default: `user`. */
  readonly user?: string;
  /** False: the program's stdin is empty. Default true: it is `Process.stdin`. */
  readonly stdin?: boolean;
  /** Runs on a terminal of this size; stdout and stderr then arrive together on `stdout`. */
  readonly pty?: TerminalSize;
  /**
   * SIGTERM to all of the program's processes after this time, SIGKILL 2 s later. Default: no limit. If the guest hangs
   * or is paused in memory, the host enforces it 10 s later.
   */
  readonly timeoutMs?: number;
  /** Output of stdout and stderr beyond this is discarded and sets `truncated`. Default: the sandbox's limit. */
  readonly outputBytesMax?: number;
  /** True: the program continues when its client leaves. Default false: it is killed. */
  readonly detached?: boolean;
  /** Text that `processes` shows, at most 256 characters. */
  readonly tag?: string;
}

export interface ExecSpec extends RunOptions {
  /** Program (looked up in PATH) and its arguments; no shell is involved. */
  readonly argv: readonly string[];
}

export interface PythonSpec extends RunOptions {
  /**
   * `code` and `name`: like `python3 <name>`, with the text in a private directory of the guest; `code` alone: like
   * `python3 -c`; `path`: a file in the guest.
   */
  readonly script: { readonly code: string | Uint8Array; readonly name?: string } | { readonly path: string };
  readonly args?: readonly string[];
  /** False: starts a cold interpreter instead of waiting for the warm list. Default true. */
  readonly waitWarm?: boolean;
}

/** Bytes of each stream since the program's start. With a terminal, all output is in `stdout`. */
export interface OutputOffsets {
  readonly stdout: number;
  readonly stderr: number;
}

export interface KeptOutput {
  /** Offsets at which the output begins and ends. */
  readonly from: OutputOffsets;
  readonly to: OutputOffsets;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

export type ProgramOutput = Pick<Process, 'pid' | 'from' | 'to' | 'stdout' | 'stderr' | 'exit'>;

export interface Process {
  readonly pid: number;
  /** Offsets at which `stdout` and `stderr` begin. Undefined: an agent of a version that does not tell. */
  readonly from?: OutputOffsets | undefined;
  /** Offsets of what the program had written when it answered. */
  readonly to?: OutputOffsets | undefined;
  /** Python only: true if forked from the interpreter that has imported the warm list. */
  readonly warm: boolean;
  /** Ending it ends the program's stdin. */
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Resolves when the terminal has the size, or no longer exists; never rejects. */
  resize(size: TerminalSize): Promise<void>;
  /** Signals all processes of the program (default SIGKILL). No effect after the exit. */
  kill(signal?: SignalName): void;
  /**
   * Resolves when the program has ended and its output is in the streams. Rejects with a GuestError (`connection_lost`,
   * `suspended`, `protocol_error`, `cancelled`) if its end is unknown. After `suspended` the program continues.
   */
  readonly exit: Promise<ProcessExit>;
}

export interface ProcessExit {
  /** `null` if a signal ended it. */
  readonly exitCode: number | null;
  /** For example `SIGKILL`; `null` if the program exited. */
  readonly signal: string | null;
  /** True if `timeoutMs` passed and the guest ended the program, or the host did for a guest that hangs. */
  readonly timedOut: boolean;
  /** True if the guest's OOM killer killed the program. */
  readonly oomKilled: boolean;
  /**
   * The program's process that the guest's OOM killer killed last; the program itself may have continued. `null` if
   * there was none, or unknown.
   */
  readonly oomVictim: OomVictim | null;
  /** True if output was discarded: beyond `outputBytesMax`, or without a connection after a `settle`. */
  readonly truncated: boolean;
  /** Milliseconds, by the guest's clock. */
  readonly durationMs: number;
}

export interface OomVictim {
  readonly pid: number;
  /** The name that the process gave itself: untrusted, at most 15 bytes. */
  readonly name: string;
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
  /** Milliseconds since the start. */
  readonly ageMs: number;
}

export interface EndedProcess extends ProcessInfo {
  readonly exit: ProcessExit;
}

export interface FileOptions {
  /** The user whose rights apply, and whose home relative paths start at. Default: `user`. */
  readonly user?: string;
  /** True: root's rights apply, and created files belong to the user. Default false. */
  readonly asRoot?: boolean;
  readonly signal?: AbortSignal;
}

/** Paths are absolute, or relative to the user's home; `~` and `~/…` are the home. */
export interface GuestFiles {
  /** The content as a stream with back-pressure. */
  read(path: string, options?: FileOptions): Promise<Readable>;
  /** The content from `offset` (default 0), at most `bytesMax`, with the current facts of the file. */
  open(
    path: string,
    options?: FileOptions & { readonly offset?: number; readonly bytesMax?: number },
  ): Promise<OpenFile>;
  /** The whole content. @throws GuestError `too_large` above `bytesMax` (default 64 MiB). */
  readAll(path: string, options?: FileOptions & { readonly bytesMax?: number }): Promise<Buffer>;
  /**
   * Replaces the file atomically when all content has arrived; creates parent directories. Default mode 0644.
   * `metadata`: short texts kept with the file, replacing earlier ones.
   */
  write(
    path: string,
    content: string | Uint8Array | AsyncIterable<Uint8Array>,
    options?: FileOptions & { readonly mode?: number; readonly metadata?: Readonly<Record<string, string>> },
  ): Promise<FileEntry>;
  stat(path: string, options?: FileOptions): Promise<FileEntry>;
  /** Lists entries in lexical order; `depth` 1 (default): only the directory's own entries. */
  list(path: string, options?: FileOptions & { readonly depth?: number }): Promise<readonly FileEntry[]>;
  /** Yields the entries of `list` one by one, without keeping them. */
  entries(path: string, options?: FileOptions & { readonly depth?: number }): AsyncIterable<FileEntry>;
  move(from: string, to: string, options?: FileOptions): Promise<FileEntry>;
  /** Removes recursively. @throws GuestError `not_found` */
  remove(path: string, options?: FileOptions): Promise<void>;
  /** Also creates parents. @throws GuestError `already_exists` */
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
  /** Final target of a symbolic link; `null` if it leads nowhere. */
  readonly target?:
    | { readonly path: string; readonly type: FileEntry['type']; readonly mode: number }
    | null
    | undefined;
  /** As set by `write`; undefined if there is none. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

export interface OpenFile {
  /** Size of the whole file, as `stat` reports it: 0 for files of the kernel. */
  readonly bytes: number;
  /** Milliseconds since 1970. */
  readonly modifiedMs: number;
  readonly content: Readable;
}

export interface FileEvent {
  readonly type: 'create' | 'write' | 'remove' | 'rename' | 'chmod' | 'overflow';
  /** Relative to the watched directory. */
  readonly name: string;
}

export interface FileWatch {
  /** Resolves when the watch has ended, for any reason. */
  readonly ended: Promise<void>;
  stop(): void;
}

export interface GuestStats {
  readonly cpuCount: number;
  /** Busy time of all CPUs since boot, milliseconds. */
  readonly cpuBusyMs: number;
  readonly uptimeMs: number;
  readonly memoryTotalBytes: number;
  readonly memoryAvailableBytes: number;
  /** Memory of user code; `null` without a cgroup. */
  readonly userMemoryBytes: number | null;
  readonly userProcesses: number | null;
  readonly diskTotalBytes: number;
  readonly diskFreeBytes: number;
  readonly oomKills: number | null;
}

export type GuestEvent =
  /** Memory pressure: user code is throttled above `memoryHighBytes`, or stalls often. */
  | {
      readonly type: 'pressure';
      readonly memoryBytes: number;
      readonly highEvents: number;
      /** `memoryMaxBytes`; 0 if unknown. */
      readonly limitBytes: number;
      /** Percent of the last 10 s in which some programs, and all of them, stalled (PSI). */
      readonly some: number;
      readonly full: number;
    }
  /** Unreclaimable memory of user code is close to an OOM kill. */
  | { readonly type: 'near_oom'; readonly memoryBytes: number; readonly limitBytes: number }
  /** The guest's OOM killer killed a process of the user. */
  | { readonly type: 'oom'; readonly oomKills: number; readonly detail: string; readonly victim: OomVictim | null }
  /** A process that an operation started has ended. */
  | { readonly type: 'exit'; readonly pid: number; readonly exit: ProcessExit }
  /** The warm list is imported, except modules with an error. */
  | { readonly type: 'warm'; readonly modules: readonly WarmModule[] }
  | { readonly type: 'log'; readonly level: 'warn' | 'info'; readonly message: string }
  /** The guest or the host dropped events above the rate. */
  | { readonly type: 'dropped'; readonly count: number };

export interface WarmModule {
  readonly name: string;
  readonly durationMs: number;
  /** `null` if imported. */
  readonly error: string | null;
}

export interface GuestClosed {
  readonly reason: 'closed' | 'lost' | 'suspended' | 'protocol_error';
  readonly detail: string;
}

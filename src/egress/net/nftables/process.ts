/** `nft` as a child process, with its input on stdin (io). */
import { type ChildProcess, spawn } from 'node:child_process';
import { writeSync } from 'node:fs';
import type { Readable } from 'node:stream';
import type { Clock } from '../../../base/clock.ts';
import { errorCode } from '../../../base/errors.ts';
import { searchPath } from '../../../base/search-path.ts';
import { MIB } from '../../../base/units.ts';
import { closeFd, createMemFd } from '../../../sys/fd.ts';
import { NetError } from '../errors.ts';
import { nftFailure, nftRefusal } from './failure.ts';

/** A table of 1,000 sandboxes is about 25 MB. */
const OUTPUT_BYTES_MAX = 128 * MIB;
const ERROR_BYTES_MAX = 64 * 1024;

interface NftProcessOptions {
  readonly command: readonly string[];
  readonly clock: Clock;
  /** The child is killed after this time. */
  readonly runMsMax: number;
}

export class NftProcess {
  readonly #command: readonly [string, ...string[]];
  readonly #clock: Clock;
  readonly #runMsMax: number;

  constructor({ command, clock, runMsMax }: NftProcessOptions) {
    const [program = 'nft', ...first] = command;
    this.#command = [program, ...first];
    this.#clock = clock;
    this.#runMsMax = runMsMax;
  }

  /** @returns its stdout @throws NetError `nft_missing`, `nft_not_permitted`, `nft_refused`, `nft_failed` */
  run(args: readonly string[], input: string, verb: string): Promise<string> {
    const [program] = this.#command;
    return new Promise((resolve, reject) => {
      const child = this.#start(args, input, verb);
      let gaveUp: Error | undefined;
      const giveUp = (why: string): void => {
        gaveUp ??= new Error(why);
        child.kill('SIGKILL');
      };
      const stopWaiting = this.#clock.after(this.#runMsMax, () => giveUp(`no end within ${this.#runMsMax} ms`));
      const output = collect(child.stdout, OUTPUT_BYTES_MAX, () => giveUp('too much output'));
      const errors = collect(child.stderr, ERROR_BYTES_MAX, () => undefined);
      child.once('error', (error) => {
        stopWaiting();
        reject(startFailure(program, verb, error));
      });
      child.once('close', (code, killedBy) => {
        stopWaiting();
        if (code === 0) resolve(output());
        else if (gaveUp !== undefined) reject(nftFailure(verb, gaveUp));
        else if (code === null) reject(nftFailure(verb, new Error(`killed by ${killedBy}`)));
        else reject(nftRefusal(verb, errors()));
      });
    });
  }

  /** Some failures to start, such as a lack of memory, are thrown by `spawn` and not emitted. */
  #start(args: readonly string[], input: string, verb: string): ChildProcess {
    const [program, ...first] = this.#command;
    let stdin: number | undefined;
    try {
      stdin = fileOf(input);
      return spawn(program, [...first, ...args], {
        env: { PATH: searchPath(process.env['PATH']), LC_ALL: 'C' },
        stdio: [stdin, 'pipe', 'pipe'],
      });
    } catch (error) {
      throw nftFailure(verb, error);
    } finally {
      if (stdin !== undefined) closeFd(stdin);
    }
  }
}

/** A file in memory: `nft -f -` opens /dev/stdin, which fails for the socket that Node creates for a child's stdin. */
function fileOf(text: string): number {
  const bytes = Buffer.from(text);
  const fd = createMemFd('nft-input', bytes.length);
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at, at);
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/** Keeps the first `bytesMax`; calls `onMore` for data beyond. */
function collect(stream: Readable | null, bytesMax: number, onMore: () => void): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream?.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= bytesMax) chunks.push(chunk);
    else onMore();
  });
  return () => Buffer.concat(chunks).toString();
}

function startFailure(program: string, verb: string, error: Error): NetError {
  if (errorCode(error) !== 'ENOENT') return nftFailure(verb, error);
  return new NetError('nft_missing', `${verb} the packet filter: ${program} is not installed`, {
    cause: error,
    remedy: 'Install it: apt install nftables.',
  });
}

/**
 * Runs skopeo, the program that speaks to registries, with the user's credentials and configuration: Docker's logins,
 * mirrors and certificates apply as for other tools. Its output is bounded, and its messages become typed errors.
 */
import { spawn } from 'node:child_process';
import { access } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../base/clock.ts';
import { errorCode } from '../../base/errors.ts';
import { ignore, tryOr } from '../../base/ignore.ts';
import { searchPath } from '../../base/search-path.ts';
import { DOCUMENT_BYTES_MAX } from './documents.ts';
import { OciError, type OciErrorCode } from './errors.ts';

const WORDS_CHARACTERS_MAX = 2_000;
const KILL_GRACE_MS = 3_000;

export interface SkopeoOptions {
  readonly signal: AbortSignal;
  /** For tests. Default: `skopeo`. */
  readonly program?: string | undefined;
  readonly image: string;
}

/** @returns stdout @throws OciError */
export async function runSkopeo(args: readonly string[], options: SkopeoOptions): Promise<Buffer> {
  const { signal, program = 'skopeo', image } = options;
  const policy = (await hasPolicy()) ? [] : ['--insecure-policy'];
  // Nothing is awaited from here to the listener: an abort in between would be lost.
  if (signal.aborted) throw cancelled(image, signal.reason);
  const child = spawn(program, [...policy, ...withPlainHttp(args)], {
    env: { ...process.env, LC_ALL: 'C', PATH: searchPath(process.env['PATH']) },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stopKill = (): void => undefined;
  const kill = (): void => {
    end(child.pid, 'SIGTERM');
    stopKill = systemClock.after(KILL_GRACE_MS, () => end(child.pid, 'SIGKILL'));
  };
  signal.addEventListener('abort', kill, { once: true });
  const chunks: Buffer[] = [];
  let bytes = 0;
  let words = '';
  child.stdout.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= DOCUMENT_BYTES_MAX) chunks.push(chunk);
    else end(child.pid, 'SIGKILL');
  });
  child.stderr.on('data', (chunk: Buffer) => {
    words = (words + chunk.toString('utf8')).slice(-WORDS_CHARACTERS_MAX);
  });
  try {
    const status = await new Promise<number | null>((resolve, reject) => {
      child.once('error', (cause) => reject(notStarted(program, cause)));
      child.once('close', resolve);
    });
    if (signal.aborted) throw cancelled(image, signal.reason);
    if (bytes > DOCUMENT_BYTES_MAX) {
      throw new OciError('image_too_large', `the manifest of ${image} is too large`);
    }
    if (status !== 0) throw explainSkopeo(words, image);
    return Buffer.concat(chunks);
  } finally {
    signal.removeEventListener('abort', kill);
    stopKill();
  }
}

/** Docker's rule, too: a registry on loopback may speak plain HTTP, which is tried after HTTPS. */
const LOOPBACK = /^docker:\/\/(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?\//i;

/** Allows plain HTTP for those of the images that are in a registry on loopback. */
export function withPlainHttp(args: readonly string[]): readonly string[] {
  const at = args.findIndex((word) => word === 'copy' || word === 'inspect');
  const [from = '', to = ''] = args.slice(-2);
  if (args[at] === 'inspect') return LOOPBACK.test(to) ? args.toSpliced(at + 1, 0, '--tls-verify=false') : args;
  const options = [
    ...(LOOPBACK.test(from) ? ['--src-tls-verify=false'] : []),
    ...(LOOPBACK.test(to) ? ['--dest-tls-verify=false'] : []),
  ];
  return args.toSpliced(at + 1, 0, ...options);
}

function end(pid: number | undefined, name: NodeJS.Signals): void {
  if (pid === undefined) return;
  tryOr(undefined, 'skopeo has already ended', () => process.kill(-pid, name));
}

function notStarted(program: string, cause: unknown): OciError {
  const isMissing = errorCode(cause) === 'ENOENT';
  return new OciError('tool_missing', `could not start ${program}`, {
    cause,
    ...(isMissing ? { remedy: 'Install the package skopeo.' } : {}),
  });
}

function cancelled(image: string, cause: unknown): OciError {
  if (cause instanceof OciError) return cause;
  return new OciError('cancelled', `fetching ${image} was canceled`, { cause });
}

/** Without a signature policy of the host, skopeo accepts no image at all. */
async function hasPolicy(): Promise<boolean> {
  const own = join(homedir(), '.config/containers/policy.json');
  for (const path of [own, '/etc/containers/policy.json']) {
    try {
      await access(path);
      return true;
    } catch (error) {
      ignore(error, 'no signature policy here');
    }
  }
  return false;
}

interface Explanation {
  readonly pattern: RegExp;
  readonly code: OciErrorCode;
  readonly remedy: string;
}

/** Ordered; the first match applies. */
const EXPLANATIONS: readonly Explanation[] = [
  {
    pattern: /no space left on device|disk quota exceeded/i,
    code: 'disk_full',
    remedy: 'Free disk space, for example with: neurovisor image prune',
  },
  {
    pattern: /toomanyrequests|too many requests|\b429\b/i,
    code: 'rate_limited',
    remedy: 'Wait, or log in to the registry: most allow more with an account.',
  },
  {
    pattern: /unauthorized|authentication required|access .*denied|\b40[13]\b|no basic auth/i,
    code: 'unauthorized',
    remedy:
      'Check the name, and log in with: docker login REGISTRY (or skopeo login). A registry says the same of an image that does not exist.',
  },
  {
    pattern:
      /manifest unknown|name unknown|not found|\b404\b|no such file|no such image|no descriptor found|no image found|does not exist/i,
    code: 'image_not_found',
    remedy: 'Check the name and the tag.',
  },
  {
    pattern:
      /digest .*(did not|does not|doesn.t) match|does not match expected|corrupt|unexpected end of|size mismatch/i,
    code: 'image_invalid',
    remedy: 'Pull it again; if that fails, too, its registry is damaged.',
  },
  {
    pattern: /no image found in (image index|manifest list)|unsupported manifest|schema/i,
    code: 'image_unsupported',
    remedy: 'Use an image for this machine, pushed by a recent tool.',
  },
];

/** Converts skopeo's last output to an error. */
export function explainSkopeo(words: string, image: string): OciError {
  const found = EXPLANATIONS.find(({ pattern }) => pattern.test(words));
  const cause = words.trim() === '' ? 'skopeo said nothing' : lastMessage(words);
  return new OciError(found?.code ?? 'registry_failed', `could not fetch ${image}`, {
    cause,
    remedy: found?.remedy ?? 'Check that the registry can be reached, and try again.',
  });
}

/** Log lines look like `time="…" level=fatal msg="…"`. */
function lastMessage(words: string): string {
  const lines = words.trim().split('\n');
  const last = lines.findLast((line) => line.includes('level=fatal')) ?? lines.at(-1) ?? '';
  const [, quoted] = /\bmsg=("(?:[^"\\]|\\.)*")/.exec(last) ?? [];
  return tryOr(last, 'not quoted as JSON: shown as it is', () =>
    quoted === undefined ? last : String(JSON.parse(quoted)),
  );
}

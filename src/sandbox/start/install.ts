/**
 * Installs Python packages into the disk of a guest that becomes a template. Its pip reaches the host's package gateway
 * over the channel; the guest has no network card.
 *
 *     requirements ─► boot ─► pip ─► modules that the packages offer ─► sync ─► the VM ends, its disk stays
 */
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { HOST_DISK_FULL } from '../../base/request/package-policy.ts';
import type { Guest } from '../../machine/guest/guest.ts';
import { FREE_SPACE, SandboxError } from '../contract/errors.ts';

const REQUIREMENTS_PATH = '/run/neurovisor-requirements.txt';
/** Enough for a large set in software emulation; the caller may cancel at any time. */
const INSTALL_MS_MAX = 3_600_000;
const LIST_MS_MAX = 120_000;
/** Maximum length of pip's last output in an error. */
const ERROR_CHARACTERS_MAX = 1_500;
/** Maximum number of modules to import in advance: more would cost more memory than they save time. */
const MODULES_MAX = 32;

const PIP = [
  'python3',
  '-m',
  'pip',
  'install',
  '--no-input',
  '--no-color',
  '--no-cache-dir',
  '--root-user-action=ignore',
  '--progress-bar=off',
  '--requirement',
  REQUIREMENTS_PATH,
];

/** Without this, the Python of a distribution's image refuses (PEP 668). */
const PIP_ENV = { PIP_BREAK_SYSTEM_PACKAGES: '1' };

/** Prints the top-level modules of the named distributions, one per line, without importing them. */
const LIST_MODULES = `
import importlib.metadata, pathlib, re, sys
wanted = {re.sub(r'[-_.]+', '-', name).lower() for name in sys.argv[1:]}
found = set()
for dist in importlib.metadata.distributions():
    if re.sub(r'[-_.]+', '-', dist.metadata['Name'] or '').lower() not in wanted: continue
    for path in dist.files or ():
        top = pathlib.PurePosixPath(path).parts[0]
        if top.endswith('.py'): top = top[:-3]
        elif not str(path).startswith(top + '/__init__.'): continue
        if top.isidentifier() and not top.startswith('_'): found.add(top)
print(*sorted(found), sep='\\n')
`;

export interface Installation {
  readonly requirements: readonly string[];
  readonly report: (detail: string) => void;
  readonly signal: AbortSignal;
}

/**
 * @returns the modules of the required packages, to import in advance
 * @throws SandboxError `spec_invalid`; `disk_full` for this host's disk; both with the end of pip's output
 */
export async function installPackages(
  guest: Guest,
  { requirements, report, signal }: Installation,
): Promise<readonly string[]> {
  const root = { user: 'root' };
  await guest.files.write(REQUIREMENTS_PATH, `${requirements.join('\n')}\n`, root);
  const started = await guest.exec(
    { argv: PIP, env: PIP_ENV, user: 'root', timeoutMs: INSTALL_MS_MAX, stdin: false },
    signal,
  );
  const lines = new LastLines(report);
  // Awaited together: if the guest is lost, exit and streams all fail.
  const [exit] = await Promise.all([started.exit, lines.read(started.stdout), lines.read(started.stderr)]);
  if (exit.exitCode !== 0) throw refused(lines.text());
  return await modulesOf(guest, requirements.map(nameOf), signal);
}

async function modulesOf(guest: Guest, names: readonly string[], signal: AbortSignal): Promise<readonly string[]> {
  const argv = ['python3', '-I', '-c', LIST_MODULES, ...names];
  const listing = await guest.exec({ argv, user: 'root', stdin: false, timeoutMs: LIST_MS_MAX }, signal);
  const lines = new LastLines(() => undefined);
  listing.stderr.resume();
  await Promise.all([listing.exit, lines.read(listing.stdout)]);
  const modules = lines
    .text()
    .split('\n')
    .filter((name) => /^[A-Za-z][A-Za-z0-9_]{0,99}$/.test(name));
  return modules.slice(0, MODULES_MAX);
}

function nameOf(requirement: string): string {
  return /^[a-z0-9-]+/.exec(requirement)?.[0] ?? requirement;
}

class LastLines {
  #text = '';
  readonly #onLine: (line: string) => void;

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine;
  }

  async read(stream: Readable): Promise<void> {
    let rest = '';
    stream.setEncoding('utf8');
    stream.on('data', (text: string) => {
      const lines = (rest + text).split('\n');
      rest = (lines.pop() ?? '').slice(-ERROR_CHARACTERS_MAX);
      for (const line of lines) this.#take(line);
    });
    await once(stream, 'close');
    if (rest !== '') this.#take(rest);
  }

  text(): string {
    return this.#text.trim();
  }

  #take(line: string): void {
    this.#text = `${this.#text}${line}\n`.slice(-ERROR_CHARACTERS_MAX);
    if (line.trim() !== '') this.#onLine(line.trim().slice(0, 100));
  }
}

function refused(output: string): SandboxError {
  const isHostFull = output.includes(HOST_DISK_FULL);
  const remedy = isHostFull
    ? FREE_SPACE
    : /No space left on device/.test(output)
      ? 'ask for a larger disk with --disk'
      : 'check the names and versions; packages come from the index that pip uses on this host (pip config list)';
  const code = isHostFull ? 'disk_full' : 'spec_invalid';
  return new SandboxError(code, 'the packages could not be installed', {
    cause: output === '' ? 'pip printed nothing' : output,
    remedy,
  });
}

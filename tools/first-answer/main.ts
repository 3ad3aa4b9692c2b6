/**
 * Measures the first answer on a fresh machine: `./neurovisor run --timings examples/agent.py` in a clean Debian 12 with npm and
 * nothing else of ours, with an empty home. Prints each line of the run after the seconds since its start, and the total.
 *
 *     node tools/first-answer/main.ts              the commit that is checked out
 *     node tools/first-answer/main.ts ./neurovisor setup
 *
 * Needs root, mmdebstrap, git and util-linux. apt, npm and pip are configured as on this host. The clean root is kept in the
 * home's cache.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { guestMirrors } from '../../src/artifacts/image/rootfs/guest-mirrors.ts';
import { resolveHome } from '../../src/base/home.ts';

const COMMAND = ['./neurovisor', 'run', '--timings', 'examples/agent.py'];
const SOURCE_DIR = join(import.meta.dirname, '../..');
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** Files with which this host's clients reach their registries. */
const CLIENT_FILES = [
  '/etc/resolv.conf',
  '/etc/hosts',
  '/etc/npmrc',
  '/etc/pip.conf',
  '/etc/apt/auth.conf',
  '/etc/apt/auth.conf.d',
  '/etc/ssl/certs/ca-certificates.crt',
  '/usr/local/share/ca-certificates',
];
/** The same files of this user. */
const USER_FILES = ['.npmrc', '.config/pip', '.pip'];
const CLIENT_VARIABLES = /^(npm_config_|PIP_|SSL_|CURL_CA|REQUESTS_CA|NODE_EXTRA_CA|https?_proxy|no_proxy)/i;
/** Settings of this host that the clean one must not have. */
const NOT_COPIED = /^npm_config_(prefix|cache|userconfig|globalconfig)$/i;

const words = process.argv.slice(2);
const command = words.length === 0 ? COMMAND : words;
const home = process.env['NEUROVISOR_HOME'] ?? join(homedir(), '.neurovisor');
const cache = join(resolveHome(home).cacheDir, 'test-first-answer');
await mkdir(cache, { recursive: true });
const clean = join(cache, 'bookworm-npm.tar');
const dir = await mkdtemp(join(cache, 'run-'));
try {
  if (!existsSync(clean)) await makeClean(clean, dir);
  const root = join(dir, 'root');
  await mkdir(root);
  execFileSync('tar', ['-x', '-p', '-f', clean, '-C', root]);
  for (const path of CLIENT_FILES) await copy(path, join(root, path));
  for (const name of USER_FILES) await copy(join(homedir(), name), join(root, 'root', name));
  const checkout = join(root, 'root/neurovisor');
  execFileSync('git', ['clone', '--quiet', '--no-local', SOURCE_DIR, checkout]);
  process.exitCode = await run(root);
} finally {
  await rm(dir, { recursive: true, force: true });
}

async function makeClean(to: string, scratch: string): Promise<void> {
  const { listPath, aptOptions } = await guestMirrors(scratch);
  const options = aptOptions.map((option) => `--aptopt=${option}`);
  const packages = '--include=npm,ca-certificates,debian-archive-keyring';
  const sources = listPath === undefined ? [] : [listPath];
  const args = ['--quiet', '--variant=minbase', packages, ...options, 'bookworm', `${to}.new.tar`];
  execFileSync('mmdebstrap', [...args, ...sources], { stdio: 'inherit' });
  await rename(`${to}.new.tar`, to);
}

async function copy(from: string, to: string): Promise<void> {
  if (!existsSync(from)) return;
  await mkdir(dirname(to), { recursive: true });
  await rm(to, { recursive: true, force: true });
  // A link may point to a file that the clean root lacks.
  await cp(from, to, { recursive: true, dereference: true, force: true });
}

/** Returns the exit status. */
function run(root: string): Promise<number> {
  const env: Record<string, string> = { PATH, HOME: '/root', LANG: 'C.UTF-8' };
  for (const [name, value] of Object.entries(process.env)) {
    if (value === undefined || !CLIENT_VARIABLES.test(name) || NOT_COPIED.test(name)) continue;
    env[name] = value;
  }
  const inside = join(import.meta.dirname, 'inside.sh');
  const namespaces = ['--mount', '--pid', '--ipc', '--uts', '--fork', '--kill-child'];
  const startedAtMs = performance.now();
  const seconds = (): string => ((performance.now() - startedAtMs) / 1000).toFixed(1).padStart(7);
  return new Promise((resolve, reject) => {
    const child = spawn('unshare', [...namespaces, 'sh', inside, root, ...command], {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    // unshare ignores other signals; all processes of its namespace end with it.
    const stop = (): void => void child.kill('SIGKILL');
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, stop);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => console.log(`${seconds()}  ${line}`));
    }
    child.once('error', reject);
    child.once('close', (status) => {
      console.log(`${seconds()}  ${status === 0 ? 'answered' : `exit status ${status}`}`);
      resolve(status ?? 1);
    });
  });
}

import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { BASE_PROGRAMS, type FailedIn, failureHint } from './failure-hint.ts';

const HERE: FailedIn = { image: null, network: null, how: 'add' };
const IN_IMAGE: FailedIn = { ...HERE, image: { name: 'debian' } };
const module = (name: string) => `Traceback:\n  import x\nModuleNotFoundError: No module named '${name}'\n`;
const gaierror = 'socket.gaierror: [Errno -3] Temporary failure in name resolution\n';

it.each<[string, string, Partial<FailedIn>, string]>([
  ['a package', module('art'), {}, 'the sandbox has no Python module art; add: --with art'],
  ['a module of another name', module('yaml.loader'), {}, 'the sandbox has no Python module yaml; add: --with pyyaml'],
  [
    'requirements beside the script',
    module('art'),
    { requirements: 'requirements.txt' },
    'the sandbox has no Python module art; add: --requirements requirements.txt, or --with art',
  ],
  ['a name', gaierror, {}, 'the sandbox has no network; add: --allow-out HOST'],
  ['curl', 'curl: (6) Could not resolve host: a.example\n', {}, 'the sandbox has no network; add: --allow-out HOST'],
  [
    'a name outside the list',
    'Error: getaddrinfo ENOTFOUND a.example\n',
    { network: { mode: 'allowlist' } },
    'the network has only what --allow-out lists; add: --allow-out HOST',
  ],
  ['memory', 'Traceback:\nMemoryError\n', {}, 'the program needs more memory; add: a larger --memory'],
  [
    'an array',
    'numpy._core._exceptions._ArrayMemoryError: Unable to allocate\n',
    { how: 'create the sandbox with' },
    'the program needs more memory; create the sandbox with: a larger --memory',
  ],
  ['sh', 'sh: 1: git: not found\n', {}, 'the built-in system has no git; add: --template base'],
  ['bash', 'bash: line 1: tmux: command not found\n', {}, 'the built-in system has no tmux; add: --template base'],
  [
    'Python',
    "FileNotFoundError: [Errno 2] No such file or directory: 'git'\n",
    {},
    'the built-in system has no git; add: --template base',
  ],
])('failureHint: %s', (_, stderr, where, hint) => expect(failureHint(stderr, { ...HERE, ...where })).toBe(hint));

it.each<[string, string, FailedIn]>([
  ['another failure', 'ValueError: git: not found?\n', HERE],
  ['a program that base lacks, too', 'sh: 1: frobnicate: not found\n', HERE],
  ['a program of an image', 'sh: 1: git: not found\n', IN_IMAGE],
  ['a name in an open network', gaierror, { ...HERE, network: { mode: 'open' } }],
  ['a module that no option takes', module('a; rm -rf ~').replace("'a", "'; a"), HERE],
])('failureHint: null for %s', (_, stderr, where) => expect(failureHint(stderr, where)).toBeNull());

it('failureHint: takes little time for hostile output', () => {
  for (const piece of ['git: ', ': not found', "FileNotFoundError: [Errno 2] No such file or directory: '", '\n: ']) {
    expect(failureHint(piece.repeat(4096 / piece.length), HERE)).toBeNull();
  }
});

it('BASE_PROGRAMS: what the Dockerfile of base installs', async () => {
  const dockerfile = await readFile(new URL('../../../environments/base/Dockerfile', import.meta.url), 'utf8');
  const packages = new Map([
    ...['cc', 'g++', 'gcc', 'make'].map((name) => [name, 'build-essential'] as const),
    ['rg', 'ripgrep'],
  ]);
  for (const name of BASE_PROGRAMS) expect(dockerfile).toMatch(new RegExp(`[ /]${packages.get(name) ?? name}\\s`));
});

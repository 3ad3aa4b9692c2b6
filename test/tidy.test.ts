/** The source itself, checked: only rules with teeth. Each rule is also shown to fire on a bad example. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');

const MECHANISMS = ['vsock', 'net', 'jail', 'image', 'observe', 'guest', 'vmm', 'bridge', 'store'];
/** folder → what it may import; `type:` = `import type` only. `runtime` composes, `bench` measures. */
const LAYERS: Record<string, readonly string[]> = {
  base: [],
  sys: ['base'],
  ...Object.fromEntries(MECHANISMS.map((name) => [name, ['base', 'sys']])),
  engine: ['base'],
  // Worlds in namespaces of their own, in which the network is seen to do what it should; VMMs in their jails.
  prove: ['base', 'sys', 'net', 'observe', 'jail', 'vmm', 'image', 'runtime', 'config'],
  sandbox: ['base', ...MECHANISMS.map((name) => `type:${name}`)],
  runtime: ['base', 'sys', 'sandbox', 'engine', 'config', ...MECHANISMS],
  config: ['base'],
  bench: ['base', 'sys', 'sandbox', 'engine', 'prove', 'config', 'runtime', ...MECHANISMS],
  // The server knows only the interfaces; the client speaks HTTP and, through it, the guest protocol.
  api: ['base', 'sandbox', ...MECHANISMS.map((name) => `type:${name}`)],
  client: ['base', 'api', 'sandbox', 'guest', ...MECHANISMS.map((name) => `type:${name}`)],
  library: [
    'base',
    'client',
    'config',
    'runtime',
    'sandbox',
    ...MECHANISMS.map((name) => `type:${name}`),
  ],
  index: ['base', 'library', 'sandbox', ...MECHANISMS.map((name) => `type:${name}`)],
  cli: [
    'base',
    'bench',
    'prove',
    'api',
    'client',
    'library',
    'runtime',
    'sandbox',
    'index',
    'config',
    ...MECHANISMS.map((name) => `type:${name}`),
  ],
};
const FILE_LINES_MAX = 500;

interface Source {
  readonly path: string;
  readonly text: string;
}

function sources(pattern: string): Source[] {
  const listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '--', pattern], {
    cwd: root,
    encoding: 'utf8',
  });
  return listed
    .split('\n')
    .filter((path) => path !== '' && !path.startsWith('test/fixtures/'))
    .map((path) => ({ path, text: readFileSync(join(root, path), 'utf8') }));
}

/** `src/vsock/muxer.ts` → `vsock`, `src/runtime.ts` and `src/runtime/x.ts` → `runtime`. */
function layerOf(path: string): string | undefined {
  const match = /^src\/([^/.]+)/.exec(path);
  return match?.[1];
}

const isTest = (path: string): boolean => /\.(test|prop)\.ts$/.test(path);

function layerViolations(source: Source): string[] {
  const from = layerOf(source.path);
  if (from === undefined || isTest(source.path)) return [];
  const allowed = LAYERS[from];
  if (allowed === undefined) return [`${source.path}: folder "${from}" is not in the layer table`];
  const out: string[] = [];
  const imports = source.text.matchAll(
    /^\s*(?:import|export)\s+(type\s)?[^'"`;]*?from\s+'(\.[^']+)'|import\('(\.[^']+)'\)|^import\s+'(\.[^']+)'/gm,
  );
  for (const match of imports) {
    const target = match[2] ?? match[3] ?? match[4] ?? '';
    const to = layerOf(relative('.', normalize(join(dirname(source.path), target))));
    if (to === undefined || to === from) continue;
    const typeOnly = match[1] !== undefined;
    const ok = allowed.includes(to) || (typeOnly && allowed.includes(`type:${to}`));
    if (!ok) out.push(`${source.path}: ${from} may not import ${typeOnly ? 'types of ' : ''}${to}`);
  }
  return out;
}

const linesMatching = (pattern: RegExp) => (source: Source) =>
  source.text
    .split('\n')
    .flatMap((line, index) =>
      pattern.test(line) ? [`${source.path}:${index + 1}: ${line.trim()}`] : [],
    );

const emptyCatches = (source: Source): string[] =>
  [...source.text.matchAll(/catch\s*(?:\([^)]*\))?\s*\{\s*\}/g)].map(
    (match) => `${source.path}: ${match[0]}`,
  );
const anyCasts = linesMatching(/\bas any\b/);
const consoleUses = linesMatching(/^(?!\s*(\*|\/\/)).*(?<![.\w#])console\.\w+\(/);
const shellUses = linesMatching(
  /\bshell:\s*true\b|\bexecSync\(|\bimport\s*\{[^}]*\bexec\b[^}]*\}\s*from\s*'node:child_process'/,
);
/** `/home/user` is the guest's. */
const machinePaths = linesMatching(/(?<![\w.])\/(?:work\/|home\/(?!user\b)\w+\/|root\/)/);
const longFiles = (source: Source): string[] => {
  const lines = source.text.split('\n').length;
  return lines > FILE_LINES_MAX ? [`${source.path}: ${lines} lines`] : [];
};

describe('tidy', () => {
  const src = sources('src/*.ts');
  const all = [...src, ...sources('test/*.ts'), ...sources('tools/*.ts')];
  const self = 'test/tidy.test.ts';

  it('layers: folders import only what the table allows', () => {
    expect(src.flatMap(layerViolations)).toEqual([]);
  });
  it('errors: no empty catch', () => {
    expect(all.filter((s) => s.path !== self).flatMap(emptyCatches)).toEqual([]);
  });
  it('types: no `as any`', () => {
    expect(all.filter((s) => s.path !== self).flatMap(anyCasts)).toEqual([]);
  });
  it('files: none longer than 500 lines', () => {
    const python = sources('guest/*.py');
    const c = [...sources('guest/*.c'), ...sources('bpf/*.c')];
    expect([...all, ...python, ...c].flatMap(longFiles)).toEqual([]);
  });
  it('output: no console outside cli', () => {
    expect(src.filter((s) => !s.path.startsWith('src/cli/')).flatMap(consoleUses)).toEqual([]);
  });
  it('processes: no shell strings', () => {
    expect(all.filter((s) => s.path !== self).flatMap(shellUses)).toEqual([]);
  });
  it('paths: no absolute path of one machine', () => {
    expect(all.filter((s) => s.path !== self).flatMap(machinePaths)).toEqual([]);
  });

  it('canaries: each rule fires on a bad example', () => {
    const bad = (path: string, text: string): Source => ({ path, text });
    expect(
      layerViolations(bad('src/vsock/x.ts', "import { a } from '../bridge/http.ts';")),
    ).toHaveLength(1);
    expect(
      layerViolations(bad('src/sandbox/x.ts', "import { a } from '../vmm/probe.ts';")),
    ).toHaveLength(1);
    expect(
      layerViolations(bad('src/sandbox/x.ts', "import type { A } from '../vmm/driver.ts';")),
    ).toEqual([]);
    expect(
      layerViolations(bad('src/base/x.ts', "import {\n  a,\n} from '../sys/libc.ts';")),
    ).toHaveLength(1);
    expect(emptyCatches(bad('src/x.ts', 'try { f(); } catch (e) {\n}'))).toHaveLength(1);
    expect(anyCasts(bad('src/x.ts', 'const a = b as any;'))).toHaveLength(1);
    expect(consoleUses(bad('src/x.ts', 'console.log(1);'))).toHaveLength(1);
    expect(shellUses(bad('src/x.ts', "spawn('a', { shell: true });"))).toHaveLength(1);
    expect(machinePaths(bad('src/x.ts', "'/root/project/x'"))).toHaveLength(1);
    expect(longFiles(bad('src/x.ts', '\n'.repeat(501)))).toHaveLength(1);
  });
});

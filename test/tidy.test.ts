/** The source itself, checked: only rules with teeth. Each rule is also shown to fire on a bad example. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');

const MECHANISMS = [
  'vsock',
  'net',
  'jail',
  'image',
  'oci',
  'observe',
  'guest',
  'vmm',
  'bridge',
  'packages',
  'store',
];
const MECHANISM_TYPES = MECHANISMS.map((name) => `type:${name}`);
/** Folder → what it may import; `type:` = `import type` only. `runtime` composes, `bench` measures. */
const LAYERS: Record<string, readonly string[]> = {
  base: [],
  sys: ['base'],
  trace: ['base'],
  requirements: ['base'],
  config: ['base'],
  home: ['base'],
  ...Object.fromEntries(MECHANISMS.map((name) => [name, ['base', 'sys', 'trace']])),
  engine: ['base'],
  sandbox: ['base', 'trace', ...MECHANISM_TYPES],
  // What the host's kernel and its VMMs say, and the metrics made of it.
  probes: ['base', 'sys', 'config', 'home', 'type:sandbox', ...MECHANISMS],
  telemetry: ['base', 'probes', 'type:sandbox', ...MECHANISMS],
  runtime: [
    'base',
    'requirements',
    'sys',
    'trace',
    'config',
    'home',
    'engine',
    'sandbox',
    'probes',
    'telemetry',
    ...MECHANISMS,
  ],
  doctor: ['base', 'sys', 'config', 'home', 'engine', 'probes', 'runtime', ...MECHANISMS],
  // Worlds in namespaces of their own, in which the network is seen to do what it should; VMMs in their jails.
  prove: [
    'base',
    'sys',
    'net',
    'observe',
    'jail',
    'vmm',
    'image',
    'engine',
    'probes',
    'runtime',
    'config',
    'home',
    'bridge',
    'packages',
    'guest',
  ],
  bench: [
    'base',
    'sys',
    'trace',
    'config',
    'home',
    'engine',
    'sandbox',
    'probes',
    'telemetry',
    'prove',
    'runtime',
    'dockerfile',
    // Figures of E2B's interface.
    'api',
    'e2b',
    'tenants',
    ...MECHANISMS,
  ],
  // Copies of trees, for the command and the library.
  transfer: ['base', 'type:guest'],
  // From a Dockerfile to an environment: VMs are the runtime's.
  dockerfile: ['base', 'sys', 'home', 'sandbox', 'runtime', 'transfer', ...MECHANISMS],
  // Keys, owners, quotas: each tenant's own view of a control plane.
  tenants: ['base', 'sandbox', ...MECHANISM_TYPES],
  // The server knows only the interfaces; the client speaks HTTP and, through it, the guest protocol.
  api: ['base', 'trace', 'requirements', 'sandbox', 'tenants', ...MECHANISM_TYPES],
  // E2B's interfaces, for its unmodified clients: one more user of the control plane.
  e2b: ['base', 'trace', 'api', 'sandbox', 'tenants', ...MECHANISM_TYPES],
  client: ['base', 'trace', 'api', 'sandbox', 'guest', ...MECHANISM_TYPES],
  library: [
    'base',
    'trace',
    'client',
    'config',
    'dockerfile',
    'home',
    'runtime',
    'sandbox',
    'transfer',
    ...MECHANISM_TYPES,
  ],
  index: ['base', 'library', 'sandbox', 'transfer', ...MECHANISM_TYPES],
  cli: [
    'base',
    'trace',
    'bench',
    'prove',
    'requirements',
    'api',
    'client',
    'dockerfile',
    'doctor',
    'e2b',
    'library',
    'probes',
    'runtime',
    'sandbox',
    'tenants',
    'transfer',
    'index',
    'config',
    'home',
    ...MECHANISM_TYPES,
  ],
};
/**
 * Folder → room → the rooms of the same folder it may import. `.` is the folder's own files, below its rooms; a
 * file named here is a room of its own: the folder's entry, above its rooms.
 */
const ROOMS: Record<string, Record<string, readonly string[]>> = {
  base: { '.': [], text: ['.'], fairness: ['.'], prebuilt: ['.'] },
  bench: {
    '.': [],
    start: ['.'],
    channel: ['.'],
    bridge: ['.'],
    network: ['.'],
    memory: ['.'],
    kernel: ['.'],
    environment: ['.'],
    packages: ['.'],
    e2b: ['.'],
    engine: ['.'],
    'registry.ts': [
      '.',
      'start',
      'channel',
      'bridge',
      'network',
      'memory',
      'kernel',
      'environment',
      'packages',
      'e2b',
      'engine',
    ],
  },
  cli: {
    '.': [],
    output: ['.'],
    flags: ['.'],
    daemon: ['.'],
    transfer: ['.', 'output'],
    top: ['.', 'output'],
    commands: ['.', 'output', 'flags', 'daemon', 'transfer', 'top'],
    definitions: ['.', 'output', 'flags', 'daemon', 'top', 'commands'],
    'main.ts': ['.', 'flags', 'definitions'],
  },
  e2b: {
    '.': [],
    events: ['.'],
    control: ['.', 'events'],
    templates: ['.', 'control'],
    envd: ['.'],
    traffic: ['.'],
    interpreter: ['.'],
    'server.ts': ['.', 'events', 'control', 'templates', 'envd', 'traffic', 'interpreter'],
  },
  jail: { '.': [], seccomp: ['.'] },
  packages: {
    '.': [],
    protocol: ['.'],
    upstream: ['.', 'protocol'],
    store: ['.', 'protocol', 'upstream'],
    host: ['.', 'upstream'],
    port: ['.', 'protocol', 'upstream', 'store'],
    'gateway.ts': ['.', 'upstream', 'store', 'port'],
  },
  net: {
    '.': [],
    addresses: ['.'],
    netlink: ['.', 'addresses'],
    http: ['.', 'addresses'],
    tls: ['.', 'addresses'],
    policy: ['.', 'addresses', 'http', 'tls'],
    link: ['.', 'addresses', 'netlink'],
    xdp: ['.', 'addresses', 'netlink', 'link'],
    nftables: ['.', 'addresses', 'netlink', 'policy'],
    dns: ['.', 'addresses', 'policy'],
    secret: ['.', 'addresses', 'http', 'policy'],
    gateway: ['.', 'addresses', 'http', 'tls', 'policy', 'secret'],
    lease: [
      '.',
      'addresses',
      'netlink',
      'link',
      'xdp',
      'policy',
      'nftables',
      'dns',
      'secret',
      'gateway',
    ],
  },
  prove: {
    '.': [],
    network: ['.'],
    jail: ['.'],
    vms: ['.', 'jail'],
    endpoint: ['.'],
    packages: ['.'],
    'main.ts': ['.', 'network'],
    'prove.ts': ['.', 'jail', 'vms', 'packages'],
  },
  sandbox: {
    '.': [],
    memory: ['.'],
    vm: ['.', 'memory'],
    start: ['.', 'memory', 'vm'],
    plane: ['.', 'memory', 'vm', 'start'],
  },
  sys: { '.': [], bpf: ['.'] },
  // The drivers never import one another.
  vmm: {
    '.': [],
    qemu: ['.'],
    firecracker: ['.'],
    fake: ['.'],
    accelerator: ['.', 'qemu'],
  },
};
const FILE_LINES_MAX = 600;
/** Without tests. A larger folder gets rooms. */
const FOLDER_FILES_MAX = 30;

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

/** `src/net/dns/server.ts` → `dns`, `src/net/errors.ts` → `.`, `src/cli/main.ts` → `main.ts`. */
function roomOf(path: string): string {
  const [, folder = '', ...rest] = path.split('/');
  const [first = ''] = rest;
  const isEntry = rest.length === 1 && Object.hasOwn(ROOMS[folder] ?? {}, first);
  return rest.length > 1 || isEntry ? first : '.';
}

const isTest = (path: string): boolean => /\.(test|prop)\.ts$/.test(path);

interface Import {
  /** Path from the repository's root. */
  readonly target: string;
  readonly typeOnly: boolean;
}

function importsOf(source: Source): Import[] {
  const found = source.text.matchAll(
    /^\s*(?:import|export)\s+(type\s)?[^'"`;]*?from\s+'(\.[^']+)'|import\('(\.[^']+)'\)|^import\s+'(\.[^']+)'/gm,
  );
  return [...found].map((match) => {
    const target = match[2] ?? match[3] ?? match[4] ?? '';
    return {
      target: relative('.', normalize(join(dirname(source.path), target))),
      typeOnly: match[1] !== undefined,
    };
  });
}

function layerViolations(source: Source): string[] {
  const from = layerOf(source.path);
  if (from === undefined || isTest(source.path)) return [];
  const allowed = LAYERS[from];
  if (allowed === undefined) return [`${source.path}: folder "${from}" is not in the layer table`];
  const out: string[] = [];
  for (const { target, typeOnly } of importsOf(source)) {
    const to = layerOf(target);
    if (to === undefined || to === from) continue;
    const ok = allowed.includes(to) || (typeOnly && allowed.includes(`type:${to}`));
    if (!ok) out.push(`${source.path}: ${from} may not import ${typeOnly ? 'types of ' : ''}${to}`);
  }
  return out;
}

/** Imports against the direction of a folder's rooms, types included. */
function roomViolations(source: Source): string[] {
  const folder = layerOf(source.path);
  if (folder === undefined || isTest(source.path)) return [];
  const rooms = ROOMS[folder];
  if (rooms === undefined) return [];
  const from = roomOf(source.path);
  const allowed = rooms[from];
  if (allowed === undefined) return [`${source.path}: room "${from}" is not in the room table`];
  return importsOf(source)
    .filter(({ target }) => layerOf(target) === folder)
    .map(({ target }) => roomOf(target))
    .filter((to) => to !== from && !allowed.includes(to))
    .map((to) => `${source.path}: ${folder}/${from} may not import ${folder}/${to}`);
}

/** Modules of the guest agent's package that a source imports, on demand included. */
function agentImportsOf({ path, text }: Source, modules: ReadonlySet<string>): string[] {
  const folder = dirname(path);
  const found = text.matchAll(/^[ \t]*from \.(\w*) import (\([^)]*\)|.*)$/gm);
  return [...found].flatMap(([, module = '', names = '']) => {
    if (module !== '') return [`${folder}/${module}.py`];
    return [...names.matchAll(/\w+/g)]
      .map(([name]) => `${folder}/${name}.py`)
      .map((target) => (modules.has(target) ? target : `${folder}/__init__.py`));
  });
}

/** Cycles of an import graph: at least one of each knot of files. */
function importCycles(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const cycles: string[] = [];
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): void => {
    const start = path.indexOf(file);
    if (start >= 0) {
      cycles.push([...path.slice(start), file].join(' → '));
      return;
    }
    if (done.has(file)) return;
    path.push(file);
    for (const target of graph.get(file) ?? []) visit(target);
    path.pop();
    done.add(file);
  };
  for (const file of graph.keys()) visit(file);
  return cycles;
}

function typescriptCycles(files: readonly Source[]): string[] {
  return importCycles(
    new Map(files.map((file) => [file.path, importsOf(file).map(({ target }) => target)])),
  );
}

function agentCycles(files: readonly Source[]): string[] {
  const modules = new Set(files.map(({ path }) => path));
  return importCycles(new Map(files.map((file) => [file.path, agentImportsOf(file, modules)])));
}

/** Surfaces of the product: what a sandbox is made of they leave to the control plane. */
const SURFACES = ['api', 'cli', 'client', 'e2b', 'index', 'library', 'tenants'];

/** Imports past the narrow waist (`sandbox/control.ts`): values of the rooms that make VMs of it. */
function waistViolations(source: Source): string[] {
  if (!SURFACES.includes(layerOf(source.path) ?? '') || isTest(source.path)) return [];
  return importsOf(source)
    .filter(({ target, typeOnly }) => !typeOnly && layerOf(target) === 'sandbox')
    .filter(({ target }) => roomOf(target) !== '.')
    .map(({ target }) => `${source.path}: only the control plane may use ${target}`);
}

/** Packages that a source imports, at once or on demand. */
const PACKAGE = /(?:\bfrom |\bimport |\bawait import\(|\bcreateRequire\([^)]*\)\()'([^.'][^']*)'/g;
const packagesOf = (source: Source): string[] =>
  [...source.text.matchAll(PACKAGE)].map(([, name = '']) =>
    name
      .split('/')
      .slice(0, name.startsWith('@') ? 2 : 1)
      .join('/'),
  );

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
/** Text of others that a command prints past `src/base/text/plain.ts`. */
const rawWrites = linesMatching(
  /\.write\(.*(?:\bJSON\.stringify\(|\$\{describeError\(|\$\{(?:\w+\.)+(?:message|remedy)\})/,
);
/** `/home/user` is the guest's. */
const machinePaths = linesMatching(/(?<![\w.])\/(?:work\/|home\/(?!user\b)\w+\/|root\/)/);
/** A property with a seed of its own tries the same inputs for ever. */
const fixedSeeds = linesMatching(/\bseed:\s*[\d_]+/i);
const ownSkips = linesMatching(/\b(?:skipIf|runIf)\(|\b(?:it|test|describe)\.(?:skip|todo|only)\b/);
const longFiles = (source: Source): string[] => {
  const lines = source.text.split('\n').length;
  return lines > FILE_LINES_MAX ? [`${source.path}: ${lines} lines`] : [];
};

function largeFolders(paths: readonly string[]): string[] {
  const counts = new Map<string, number>();
  for (const path of paths.filter((each) => !isTest(each)))
    counts.set(dirname(path), (counts.get(dirname(path)) ?? 0) + 1);
  return [...counts]
    .filter(([, count]) => count > FOLDER_FILES_MAX)
    .map(([folder, count]) => `${folder}: ${count} files`);
}

describe('tidy', () => {
  const src = sources('src/*.ts');
  const all = [...src, ...sources('test/*.ts'), ...sources('tools/*.ts')];
  const self = 'test/tidy.test.ts';

  it('layers: folders import only what the table allows', () => {
    expect(src.flatMap(layerViolations)).toEqual([]);
  });
  it('rooms: the rooms of a folder import only what the table allows', () => {
    expect(src.flatMap(roomViolations)).toEqual([]);
  });
  it('cycles: no files import one another, types and imports on demand included', () => {
    const agent = sources('guest/agent/*.py');
    expect(agent.length).toBeGreaterThan(0);
    expect([...typescriptCycles(src), ...agentCycles(agent)]).toEqual([]);
  });
  it('waist: CLI, library and REST use sandboxes only through a control plane', () => {
    expect(src.flatMap(waistViolations)).toEqual([]);
  });
  it('errors: no empty catch', () => {
    expect(all.filter((s) => s.path !== self).flatMap(emptyCatches)).toEqual([]);
  });
  it('types: no `as any`', () => {
    expect(all.filter((s) => s.path !== self).flatMap(anyCasts)).toEqual([]);
  });
  it('files: none longer than 600 lines', () => {
    const python = sources('guest/*.py');
    const c = [...sources('guest/*.c'), ...sources('bpf/*.c')];
    expect([...all, ...python, ...c].flatMap(longFiles)).toEqual([]);
  });
  it('folders: none of src has more than 30 files', () => {
    expect(largeFolders(src.map(({ path }) => path))).toEqual([]);
  });
  it('output: no console outside cli', () => {
    expect(src.filter((s) => !s.path.startsWith('src/cli/')).flatMap(consoleUses)).toEqual([]);
  });
  it('terminal: commands print JSON and messages through src/base/text/plain.ts', () => {
    const commands = src.filter((s) => s.path.startsWith('src/cli/') && !isTest(s.path));
    expect(commands.flatMap(rawWrites)).toEqual([]);
  });
  it('processes: no shell strings', () => {
    expect(all.filter((s) => s.path !== self).flatMap(shellUses)).toEqual([]);
  });
  it('properties: none has a fixed seed', () => {
    const properties = all.filter((s) => /^import fc from 'fast-check'/m.test(s.text));
    expect(properties.flatMap(fixedSeeds)).toEqual([]);
  });
  it('skips: only through test/support/requires.ts', () => {
    const tests = all.filter(({ path }) => isTest(path) || path.startsWith('test/'));
    const exempt = [self, 'test/support/requires.ts', 'tools/test/vitest.test.ts'];
    const others = tests.filter(({ path }) => !exempt.includes(path));
    expect(others.flatMap(ownSkips)).toEqual([]);
  });
  it('paths: no absolute path of one machine', () => {
    expect(all.filter((s) => s.path !== self).flatMap(machinePaths)).toEqual([]);
  });

  it('dependencies: src imports every one of them, and no development dependency', () => {
    const { dependencies, devDependencies } = JSON.parse(
      readFileSync(join(root, 'package.json'), 'utf8'),
    ) as Record<string, Record<string, string>>;
    const product = src.filter(({ path }) => !isTest(path));
    const imported = new Set(product.flatMap(packagesOf));
    // Prebuilt binaries are loaded by the package that they belong to.
    const own = Object.keys(dependencies ?? {}).filter((name) => !/[/-]linux-x64$/.test(name));
    expect(own.filter((name) => !imported.has(name))).toEqual([]);
    expect(Object.keys(devDependencies ?? {}).filter((name) => imported.has(name))).toEqual([]);
  });

  it('canaries: each rule fires on a bad example', () => {
    const bad = (path: string, text: string): Source => ({ path, text });
    expect(
      layerViolations(bad('src/vsock/x.ts', "import { a } from '../bridge/http.ts';")),
    ).toHaveLength(1);
    expect(
      layerViolations(bad('src/sandbox/x.ts', "import { a } from '../vmm/accelerator/probe.ts';")),
    ).toHaveLength(1);
    expect(
      layerViolations(bad('src/sandbox/x.ts', "import type { A } from '../vmm/driver.ts';")),
    ).toEqual([]);
    expect(
      layerViolations(bad('src/base/x.ts', "import {\n  a,\n} from '../sys/libc.ts';")),
    ).toHaveLength(1);
    expect(
      roomViolations(bad('src/net/policy/x.ts', "import type { A } from '../dns/server.ts';")),
    ).toHaveLength(1);
    expect(
      roomViolations(bad('src/net/errors.ts', "import { a } from './dns/server.ts';")),
    ).toHaveLength(1);
    expect(
      roomViolations(bad('src/net/dns/x.ts', "import { a } from '../policy/pins.ts';")),
    ).toEqual([]);
    expect(
      roomViolations(bad('src/cli/failure.ts', "import { a } from './definitions/run.ts';")),
    ).toHaveLength(1);
    expect(
      roomViolations(bad('src/cli/main.ts', "import { a } from './definitions/run.ts';")),
    ).toEqual([]);
    expect(
      roomViolations(bad('src/cli/commands/x.ts', "import { a } from '../main.ts';")),
    ).toHaveLength(1);
    expect(
      roomViolations(bad('src/vmm/fake/x.ts', "import { a } from '../qemu/qmp.ts';")),
    ).toHaveLength(1);
    const types = bad('src/a/x.ts', "import type { Y } from '../b/y.ts';");
    const onDemand = bad('src/b/y.ts', "const x = await import('../a/x.ts');");
    expect(typescriptCycles([types, onDemand])).toEqual(['src/a/x.ts → src/b/y.ts → src/a/x.ts']);
    expect(typescriptCycles([types, bad('src/b/y.ts', '')])).toEqual([]);
    expect(typescriptCycles([bad('src/x.ts', "export * from './x.ts';")])).toHaveLength(1);
    expect(
      agentCycles([
        bad('agent/a.py', 'from . import VERSION, b'),
        bad('agent/b.py', '    from .c import C'),
        bad('agent/c.py', 'from . import (\n    a,\n    d,\n)'),
        bad('agent/__init__.py', ''),
      ]),
    ).toEqual(['agent/a.py → agent/b.py → agent/c.py → agent/a.py']);
    const supervisor = "from '../sandbox/vm/supervisor.ts';";
    expect(
      waistViolations(bad('src/cli/x.ts', `import { type A, Supervisor } ${supervisor}`)),
    ).toHaveLength(1);
    expect(
      waistViolations(bad('src/cli/x.ts', `import type { Supervisor } ${supervisor}`)),
    ).toEqual([]);
    expect(packagesOf(bad('src/x.ts', "import type { A } from '@a/b/c';"))).toEqual(['@a/b']);
    expect(emptyCatches(bad('src/x.ts', 'try { f(); } catch (e) {\n}'))).toHaveLength(1);
    expect(anyCasts(bad('src/x.ts', 'const a = b as any;'))).toHaveLength(1);
    expect(consoleUses(bad('src/x.ts', 'console.log(1);'))).toHaveLength(1);
    expect(rawWrites(bad('src/cli/x.ts', `out.write(\`a: \${one.message}\`);`))).toHaveLength(1);
    expect(rawWrites(bad('src/cli/x.ts', 'out.write(JSON.stringify(a));'))).toHaveLength(1);
    expect(rawWrites(bad('src/cli/x.ts', `out.write(\`\${plain(one.message)}\`);`))).toEqual([]);
    expect(shellUses(bad('src/x.ts', "spawn('a', { shell: true });"))).toHaveLength(1);
    expect(fixedSeeds(bad('src/x.prop.ts', '{ numRuns: 100, seed: 20_261_124 },'))).toHaveLength(1);
    expect(ownSkips(bad('test/x.test.ts', "it.skipIf(!isRoot)('x', () => {"))).toHaveLength(1);
    expect(machinePaths(bad('src/x.ts', "'/root/project/x'"))).toHaveLength(1);
    expect(longFiles(bad('src/x.ts', '\n'.repeat(601)))).toHaveLength(1);
    const folder = (count: number): string[] =>
      Array.from({ length: count }, (_, index) => `src/x/${index}.ts`);
    expect(largeFolders([...folder(30), 'src/x/0.test.ts', 'src/x/y/z.ts'])).toEqual([]);
    expect(largeFolders(folder(31))).toEqual(['src/x: 31 files']);
  });
});

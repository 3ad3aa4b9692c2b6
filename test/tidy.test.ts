/** The source itself, checked: only rules with teeth. Each rule is also shown to fire on a bad example. */
import { execFileSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..');

const MECHANISM_TYPES = ['type:machine', 'type:egress', 'type:inference'];
/** Wing → what it may import, wings or rooms of them; `type:` = `import type` only. */
const WINGS: Record<string, readonly string[]> = {
  base: [],
  sys: ['base'],
  // The mechanisms: never each other.
  machine: ['base', 'sys'],
  egress: ['base', 'sys'],
  inference: ['base'],
  sandbox: ['base', 'sys', ...MECHANISM_TYPES],
  artifacts: ['base', 'sys', 'type:machine', 'type:sandbox'],
  // The client speaks the guest protocol through REST.
  api: ['base', 'sandbox', 'machine/guest', ...MECHANISM_TYPES],
  host: ['base', 'sys', 'machine', 'egress', 'inference', 'artifacts', 'sandbox', 'api'],
  cli: ['base', 'host', 'api', 'artifacts', 'sandbox', 'index', ...MECHANISM_TYPES],
  index: ['base', 'cli/library', 'sandbox', 'artifacts/transfer', ...MECHANISM_TYPES],
  prove: ['base', 'sys', 'machine', 'egress', 'inference', 'artifacts', 'host', 'cli'],
  bench: ['base', 'sys', 'machine', 'egress', 'inference', 'artifacts', 'sandbox', 'host', 'api', 'cli', 'prove'],
};
/**
 * Folder → room → the rooms of the same folder it may import. `.` is the folder's own files, below its rooms; a
 * file named here is a room of its own: the folder's entry, above its rooms.
 */
const ROOMS: Record<string, Record<string, readonly string[]>> = {
  'src/base': {
    '.': [],
    text: ['.'],
    http: ['.'],
    request: ['.', 'text'],
    fairness: ['.'],
    prebuilt: ['.'],
    trace: ['.'],
    'config.ts': ['.', 'text', 'request'],
  },
  'src/sys': { '.': [], bpf: ['.'] },
  'src/machine': { guest: [], vsock: [], jail: [], observe: [], vmm: [] },
  'src/machine/jail': { '.': [], seccomp: ['.'] },
  // The drivers never import one another.
  'src/machine/vmm': { '.': [], qemu: ['.'], firecracker: ['.'], accelerator: ['.', 'qemu'] },
  'src/egress': { '.': [], net: [], outgoing: ['net'], packages: ['outgoing'], 'webhook.ts': ['outgoing'] },
  'src/egress/packages': {
    '.': [],
    protocol: ['.'],
    upstream: ['.', 'protocol'],
    store: ['.', 'protocol', 'upstream'],
    host: ['.', 'upstream'],
    port: ['.', 'protocol', 'upstream', 'store'],
    'gateway.ts': ['.', 'upstream', 'store', 'port'],
  },
  'src/egress/net': {
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
    lease: ['.', 'addresses', 'netlink', 'link', 'xdp', 'policy', 'nftables', 'dns', 'secret', 'gateway'],
  },
  'src/inference': { bridge: [], engine: [] },
  'src/artifacts': {
    '.': [],
    requirements: [],
    transfer: [],
    oci: [],
    image: [],
    dockerfile: ['.', 'oci', 'transfer'],
  },
  'src/sandbox': {
    store: [],
    contract: ['store'],
    memory: ['contract'],
    vm: ['contract', 'memory'],
    start: ['contract', 'memory', 'vm'],
    plane: ['contract', 'memory', 'vm', 'start', 'store'],
  },
  'src/api': { tenants: [], rest: ['tenants'], e2b: ['rest', 'tenants'], client: ['rest', 'tenants'] },
  'src/api/e2b': {
    '.': [],
    events: ['.'],
    control: ['.', 'events'],
    templates: ['.', 'control'],
    envd: ['.'],
    traffic: ['.'],
    interpreter: ['.'],
    'server.ts': ['.', 'events', 'control', 'templates', 'envd', 'traffic', 'interpreter'],
  },
  'src/host': {
    disk: [],
    probes: [],
    telemetry: ['probes'],
    runtime: ['probes', 'telemetry'],
    builds: ['runtime'],
    contents: ['runtime', 'builds', 'disk'],
    doctor: ['probes', 'runtime'],
    daemon: ['runtime', 'builds', 'contents'],
  },
  'src/cli': {
    '.': [],
    library: [],
    output: ['.'],
    flags: ['.'],
    daemon: ['.', 'library'],
    transfer: ['.', 'output'],
    top: ['.', 'output'],
    commands: ['.', 'library', 'output', 'flags', 'daemon', 'transfer', 'top'],
    definitions: ['.', 'library', 'output', 'flags', 'daemon', 'top', 'commands'],
    'main.ts': ['.', 'flags', 'definitions'],
  },
  prove: {
    '.': [],
    vmm: [],
    network: ['.', 'vmm'],
    jail: ['.'],
    vms: ['.', 'jail'],
    packages: ['.'],
    api: ['.'],
    'main.ts': ['.', 'network'],
    'prove.ts': ['.', 'jail', 'vms', 'packages', 'api'],
    'command.ts': ['.', 'prove.ts'],
  },
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
    'command.ts': ['.', 'registry.ts'],
  },
};
/** Of files; functions of `src` have at most 70 (`biome.json`). */
const SRC_LINES_MAX = 450;
/** Of tests, tools, proofs, benchmarks and the guest. */
const OTHER_LINES_MAX = 600;
/** Without tests. A larger folder gets rooms. */
const FOLDER_FILES_MAX = 30;

/** Files with HTTP clients of their own. None gets a URL from a guest, a caller or another server. */
const OWN_CLIENTS = [
  // Ports of sandboxes, over streams of the control plane.
  'src/api/e2b/traffic/proxy.ts',
  // Endpoints that a person sets: traces; files whose digests are pinned.
  'src/artifacts/image/pinned-source.ts',
  'src/base/trace/exporter.ts',
  // Model servers that a person sets, byte for byte.
  'src/inference/bridge/upstream/client.ts',
  // Sockets of processes that the host started.
  'src/inference/engine/health.ts',
  'src/machine/vmm/firecracker/api-client.ts',
];

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

/** True if the file loads a client of HTTP or a resolver, or calls the global `fetch`. */
function sendsRequests({ text }: Source): boolean {
  const client = /import\s*\{[^}]*\b(?<!type )(request|get|Agent)\b[^}]*\}\s*from 'node:https?'/;
  const loads = /(from|import\()\s*'(node:dns|undici|node:http2)/;
  const types = /import type [^;]* from 'undici';/g;
  return client.test(text) || loads.test(text.replace(types, '')) || /(await|return|=) fetch\(/.test(text);
}

/** `src/machine/vsock/muxer.ts` → `machine`, `src/index.ts` → `index`, `prove/world.ts` → `prove`. */
function wingOf(path: string): string | undefined {
  const match = /^(?:src\/([^/.]+)|(prove|bench)\/)/.exec(path);
  return match?.[1] ?? match?.[2];
}

/**
 * In `src/egress/net`: `…/dns/server.ts` → `dns`, `…/errors.ts` → `.`; in `src/cli`: `src/cli/main.ts` → `main.ts`.
 * Undefined: the path is not in the folder.
 */
function roomOf(path: string, folder: string): string | undefined {
  if (!path.startsWith(`${folder}/`)) return undefined;
  const [first = '', ...rest] = path.slice(folder.length + 1).split('/');
  return rest.length > 0 || Object.hasOwn(ROOMS[folder] ?? {}, first) ? first : '.';
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
    return { target: relative('.', normalize(join(dirname(source.path), target))), typeOnly: match[1] !== undefined };
  });
}

/** `src/machine/guest/remote.ts` → `machine/guest`. */
const wingAndRoom = (path: string): string => path.split('/').slice(1, 3).join('/');

function wingViolations(source: Source): string[] {
  const from = wingOf(source.path);
  if (from === undefined || isTest(source.path)) return [];
  const allowed = WINGS[from];
  if (allowed === undefined) return [`${source.path}: "${from}" is not in the table of wings`];
  const out: string[] = [];
  for (const { target, typeOnly } of importsOf(source)) {
    const to = wingOf(target);
    if (to === undefined || to === from) continue;
    const ok =
      allowed.includes(to) || allowed.includes(wingAndRoom(target)) || (typeOnly && allowed.includes(`type:${to}`));
    if (!ok) out.push(`${source.path}: ${from} may not import ${typeOnly ? 'types of ' : ''}${to}`);
  }
  return out;
}

/** Imports against the direction of a folder's rooms, types included. */
function roomViolations(source: Source): string[] {
  if (isTest(source.path)) return [];
  return Object.entries(ROOMS).flatMap(([folder, rooms]) => {
    const from = roomOf(source.path, folder);
    if (from === undefined) return [];
    const allowed = rooms[from];
    if (allowed === undefined) return [`${source.path}: room "${from}" of ${folder} is not in the room table`];
    return importsOf(source)
      .map(({ target }) => roomOf(target, folder))
      .filter((to) => to !== undefined && to !== from && !allowed.includes(to))
      .map((to) => `${source.path}: ${folder}/${from} may not import ${folder}/${to}`);
  });
}

/**
 * The files that a wing's README names for other wings, without `.ts`: rows `| room | files |` under "Entry files".
 * `room/*`: all of the room.
 */
function entriesIn(readme: string): ReadonlySet<string> {
  const [, section = ''] = readme.split(/^## Entry files$/m);
  const [table = ''] = section.split(/^## /m);
  const rows = table.matchAll(/^\| `([\w./-]+)` \| (.*) \|$/gm);
  return new Set(
    [...rows].flatMap(([, room = '', files = '']) =>
      [...files.matchAll(/`([\w.*/-]+)`/g)].map(([, file = '']) => normalize(`${room}/${file}`)),
    ),
  );
}

/** Imports of files of another wing that its README does not name. `prove` and `bench` look inside. */
function entryViolations(source: Source, entries: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  if (!source.path.startsWith('src/') || isTest(source.path)) return [];
  const from = wingOf(source.path);
  return importsOf(source).flatMap(({ target }) => {
    const to = wingOf(target) ?? '';
    const named = entries.get(to);
    if (to === from || named === undefined) return [];
    const inside = target.slice(`src/${to}/`.length).replace(/\.ts$/, '');
    const ok = named.has(inside) || named.has(normalize(`${dirname(inside)}/*`));
    return ok ? [] : [`${source.path}: ${inside} is no entry file in src/${to}/README.md`];
  });
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
  return importCycles(new Map(files.map((file) => [file.path, importsOf(file).map(({ target }) => target)])));
}

function agentCycles(files: readonly Source[]): string[] {
  const modules = new Set(files.map(({ path }) => path));
  return importCycles(new Map(files.map((file) => [file.path, agentImportsOf(file, modules)])));
}

/** Surfaces of the product: what a sandbox is made of they leave to the control plane. */
const SURFACES = ['api', 'cli', 'index'];

/** Imports past the narrow waist (`sandbox/contract/control.ts`): values of the rooms that make VMs of it. */
function waistViolations(source: Source): string[] {
  if (!SURFACES.includes(wingOf(source.path) ?? '') || isTest(source.path)) return [];
  return importsOf(source)
    .filter(({ target, typeOnly }) => !typeOnly && wingOf(target) === 'sandbox')
    .filter(({ target }) => roomOf(target, 'src/sandbox') !== 'contract')
    .map(({ target }) => `${source.path}: only the control plane may use ${target}`);
}

/** Files of other wings that a source imports. */
const crossingTargets = (source: Source): string[] =>
  importsOf(source)
    .map(({ target }) => target)
    .filter((target) => wingOf(target) !== wingOf(source.path));

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
    .flatMap((line, index) => (pattern.test(line) ? [`${source.path}:${index + 1}: ${line.trim()}`] : []));

const emptyCatches = (source: Source): string[] =>
  [...source.text.matchAll(/catch\s*(?:\([^)]*\))?\s*\{\s*\}/g)].map((match) => `${source.path}: ${match[0]}`);
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
  const max = source.path.startsWith('src/') && !isTest(source.path) ? SRC_LINES_MAX : OTHER_LINES_MAX;
  return lines > max ? [`${source.path}: ${lines} lines`] : [];
};

function largeFolders(paths: readonly string[]): string[] {
  const counts = new Map<string, number>();
  for (const path of paths.filter((each) => !isTest(each)))
    counts.set(dirname(path), (counts.get(dirname(path)) ?? 0) + 1);
  return [...counts]
    .filter(([, count]) => count > FOLDER_FILES_MAX)
    .map(([folder, count]) => `${folder}: ${count} files`);
}

/** Pages of `docs` to which its index has no link. */
const unlisted = (index: string, pages: readonly string[]): string[] =>
  pages.filter((page) => page !== 'docs/README.md' && !index.includes(`](${page.slice('docs/'.length)})`));

describe('tidy', () => {
  const src = ['src/*.ts', 'prove/*.ts', 'bench/*.ts'].flatMap(sources);
  const all = [...src, ...sources('test/*.ts'), ...sources('tools/*.ts')];
  const self = 'test/tidy.test.ts';

  it('wings: they import only what the table allows', () => {
    expect(src.flatMap(wingViolations)).toEqual([]);
  });
  it('entries: other wings import only the files that a README names, and it names no other', () => {
    const wings = Object.keys(WINGS).filter((wing) => existsSync(join(root, 'src', wing)));
    const entries = new Map(
      wings.map((wing) => {
        const text = readFileSync(join(root, 'src', wing, 'README.md'), 'utf8');
        return [wing, entriesIn(text)];
      }),
    );
    expect(src.flatMap((source) => entryViolations(source, entries))).toEqual([]);
    const used = new Set(src.filter(({ path }) => !isTest(path)).flatMap(crossingTargets));
    const unused = [...entries].flatMap(([wing, names]) =>
      [...names]
        .filter((name) => !name.endsWith('*') && !used.has(`src/${wing}/${name}.ts`))
        .map((name) => `src/${wing}/README.md: no other wing imports ${name}`),
    );
    expect(unused).toEqual([]);
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
  it('files: none of src longer than 450 lines, no other longer than 600', () => {
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

  it('docs: docs/README.md names every page, and the index of decisions every record', () => {
    const indexOf = (folder: string): string => readFileSync(join(root, folder, 'README.md'), 'utf8');
    const pages = globSync('docs/**/*.md', { cwd: root });
    const isDecision = (page: string): boolean => /\/decisions\/\d/.test(page);
    expect(
      unlisted(
        indexOf('docs'),
        pages.filter((page) => !isDecision(page)),
      ),
    ).toEqual([]);
    const decisions = pages.filter(isDecision).map((page) => page.replace('decisions/', ''));
    expect(unlisted(indexOf('docs/decisions'), decisions)).toEqual([]);
  });

  it('dependencies: src imports every one of them, and no development dependency', () => {
    const { dependencies, devDependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Record<
      string,
      Record<string, string>
    >;
    const product = src.filter(({ path }) => !isTest(path));
    const imported = new Set(product.flatMap(packagesOf));
    // Prebuilt binaries are loaded by the package that they belong to.
    const own = Object.keys(dependencies ?? {}).filter((name) => !/[/-]linux-x64$/.test(name));
    expect(own.filter((name) => !imported.has(name))).toEqual([]);
    expect(Object.keys(devDependencies ?? {}).filter((name) => imported.has(name))).toEqual([]);
  });

  it('outgoing: only src/egress/outgoing resolves names and opens connections for guests and callers', () => {
    const product = src.filter(({ path }) => !isTest(path) && path.startsWith('src/'));
    const others = product.filter(({ path }) => !path.startsWith('src/egress/outgoing/'));
    expect(others.filter(sendsRequests).map(({ path }) => path)).toEqual(OWN_CLIENTS);
  });

  it('canaries: each rule fires on a bad example', () => {
    const bad = (path: string, text: string): Source => ({ path, text });
    expect(sendsRequests(bad('src/host/x.ts', "import { get, type Agent } from 'node:https';"))).toBe(true);
    expect(sendsRequests(bad('src/host/x.ts', "import { resolve4 } from 'node:dns/promises';"))).toBe(true);
    expect(sendsRequests(bad('src/host/x.ts', "const { request } = await import('undici');"))).toBe(true);
    expect(sendsRequests(bad('src/host/x.ts', "import { createServer, type Agent } from 'node:http';"))).toBe(false);
    expect(
      wingViolations(bad('src/machine/vsock/x.ts', "import { a } from '../../egress/net/http/head.ts';")),
    ).toHaveLength(1);
    expect(
      wingViolations(bad('src/sandbox/contract/x.ts', "import { a } from '../../machine/vmm/accelerator/probe.ts';")),
    ).toHaveLength(1);
    expect(
      wingViolations(bad('src/sandbox/contract/x.ts', "import type { A } from '../../machine/vmm/driver.ts';")),
    ).toEqual([]);
    expect(wingViolations(bad('src/base/x.ts', "import {\n  a,\n} from '../sys/libc.ts';"))).toHaveLength(1);
    const entries = new Map([['machine', entriesIn('## Entry files\n| `vmm` | `driver` |\n')]]);
    const opened = bad('src/host/x.ts', "import { a } from '../machine/vmm/driver.ts';");
    expect(entryViolations(opened, entries)).toEqual([]);
    const past = bad('src/host/x.ts', "import { a } from '../machine/vmm/launch.ts';");
    expect(entryViolations(past, entries)).toHaveLength(1);
    expect(
      roomViolations(bad('src/egress/net/policy/x.ts', "import type { A } from '../dns/server.ts';")),
    ).toHaveLength(1);
    expect(roomViolations(bad('src/egress/net/errors.ts', "import { a } from './dns/server.ts';"))).toHaveLength(1);
    expect(roomViolations(bad('src/egress/net/dns/x.ts', "import { a } from '../policy/pins.ts';"))).toEqual([]);
    expect(roomViolations(bad('src/cli/failure.ts', "import { a } from './definitions/run.ts';"))).toHaveLength(1);
    expect(roomViolations(bad('src/cli/main.ts', "import { a } from './definitions/run.ts';"))).toEqual([]);
    expect(roomViolations(bad('src/cli/commands/x.ts', "import { a } from '../main.ts';"))).toHaveLength(1);
    expect(roomViolations(bad('src/machine/vmm/firecracker/x.ts', "import { a } from '../qemu/qmp.ts';"))).toHaveLength(
      1,
    );
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
    expect(waistViolations(bad('src/cli/x.ts', `import { type A, Supervisor } ${supervisor}`))).toHaveLength(1);
    expect(waistViolations(bad('src/cli/x.ts', `import type { Supervisor } ${supervisor}`))).toEqual([]);
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
    expect(longFiles(bad('src/x.ts', '\n'.repeat(450)))).toHaveLength(1);
    expect(longFiles(bad('src/x.test.ts', '\n'.repeat(450)))).toEqual([]);
    expect(longFiles(bad('tools/x.ts', '\n'.repeat(600)))).toHaveLength(1);
    const folder = (count: number): string[] => Array.from({ length: count }, (_, index) => `src/x/${index}.ts`);
    expect(largeFolders([...folder(30), 'src/x/0.test.ts', 'src/x/y/z.ts'])).toEqual([]);
    expect(largeFolders(folder(31))).toEqual(['src/x: 31 files']);
  });
});

/** `setup --firecracker`: archives made here, harmless and hostile; no real Firecracker. */
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { findInstalledFirecracker } from '../../src/artifacts/image/firecracker.ts';
import { extractFile, listArchive } from '../../src/artifacts/image/release-archive.ts';
import { DEFAULT_FIRECRACKER } from '../../src/base/config.ts';
import { describeError } from '../../src/base/errors.ts';
import { explainUnused, installFirecracker, withFirecracker } from '../../src/host/runtime/firecracker/binary.ts';
import { cli, ROOT } from '../support/cli.ts';
import { type TestContext, temporaryDirectory, testContext } from '../support/image.ts';
import { requiresRoot } from '../support/requires.ts';

const VERSION = '1.16.1';
const RELEASE = `release-v${VERSION}-x86_64`;

let context: TestContext;
let dir: string;
/** Written by any program of an archive that is run. */
let ran: string;
beforeEach(async () => {
  context = await testContext();
  dir = await temporaryDirectory();
  ran = join(dir, 'ran');
});

const program = (name: string, version = VERSION): string =>
  `#!/bin/sh\necho ran >> ${ran}\necho '${name} v${version}'\n`;
const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');
const digestOf = (path: string): string => sha256(readFileSync(path));

/** A directory with these files, laid out as a release. */
function tree(files: Readonly<Record<string, string>>): string {
  const root = mkdtempSync(join(dir, 'tree-'));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(root, name, '..'), { recursive: true });
    writeFileSync(join(root, name), content, { mode: 0o755 });
  }
  return root;
}

function archive(root: string, args: readonly string[] = ['.']): string {
  const path = join(dir, 'release.tgz');
  execFileSync('tar', ['-czPf', path, '-C', root, ...args]);
  return path;
}

const release = (version = VERSION, jailer = version): Record<string, string> => ({
  [`${RELEASE}/firecracker-v${version}-x86_64`]: program('Firecracker', version),
  [`${RELEASE}/jailer-v${jailer}-x86_64`]: program('Jailer', jailer),
  [`${RELEASE}/firecracker-v${version}-x86_64.debug`]: 'symbols',
  [`${RELEASE}/SHA256SUMS`]: 'sums',
});

const install = (from: string, ...digests: string[]) =>
  installFirecracker(context, { from, digests: digests.length > 0 ? digests : [digestOf(from)] });

/** Nothing is installed, and nothing is left behind. */
async function nothingIsThere(): Promise<void> {
  expect(await findInstalledFirecracker(context.cacheDir)).toBeNull();
  const left = join(context.cacheDir, 'tmp');
  expect(existsSync(left) ? readdirSync(left) : []).toEqual([]);
}

async function refuses(installing: Promise<unknown>, cause: RegExp): Promise<void> {
  const error: unknown = await installing.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toMatchObject({ code: 'source_invalid' });
  expect(describeError(error)).toMatch(cause);
  await nothingIsThere();
}

async function serve(listener: RequestListener): Promise<string> {
  const server = createServer(listener).listen(0, '127.0.0.1');
  onTestFinished(() => void server.close());
  await new Promise((resolve) => server.once('listening', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/release.tgz`;
}

describe('installFirecracker', () => {
  it('installs both programs of a release archive, executable, and finds them afterwards', async () => {
    const made = await install(archive(tree(release())));
    expect(made.version).toBe(VERSION);
    expect(await findInstalledFirecracker(context.cacheDir)).toEqual({
      firecracker: made.firecracker,
      jailer: made.jailer,
    });
    for (const path of [made.firecracker, made.jailer]) {
      expect(statSync(path).mode & 0o777).toBe(0o755);
    }
    expect(readFileSync(made.jailer, 'utf8')).toBe(program('Jailer'));
    expect(readdirSync(join(made.firecracker, '..')).sort()).toEqual(['firecracker', 'jailer', 'manifest.json']);
    const steps = context.events.map(({ kind }) => kind);
    expect([steps[0], steps.at(-1)]).toEqual(['start', 'done']);
  });

  it('replaces another version, and does nothing the second time', async () => {
    const first = await install(archive(tree(release())));
    const both = archive(tree({ ...release(), ...release('1.17.0') }));
    const refused = await install(both).catch((error: unknown) => error);
    expect(describeError(refused)).toContain('it has several');
    expect(await findInstalledFirecracker(context.cacheDir)).not.toBeNull();
    const newer = archive(tree(release('1.17.0')));
    const { firecracker, version } = await install(newer);
    expect(version).toBe('1.17.0');
    expect(await findInstalledFirecracker(context.cacheDir)).toMatchObject({ firecracker });
    context.events.length = 0;
    expect((await install(newer)).firecracker).toBe(firecracker);
    expect(context.events).toMatchObject([{ kind: 'done', cached: true }]);
    expect(existsSync(first.firecracker), 'a running daemon starts VMs from it').toBe(true);
  });

  it('finds an earlier version that was installed again, and keeps one beside it', async () => {
    const versions = ['1.16.1', '1.17.0', '1.18.0'].map((version) => tree(release(version)));
    const [oldest, middle, newest] = versions as [string, string, string];
    const { firecracker } = await install(archive(oldest));
    const second = await install(archive(middle));
    await install(archive(oldest));
    expect(await findInstalledFirecracker(context.cacheDir)).toMatchObject({ firecracker });
    await install(archive(newest));
    expect([firecracker, second.firecracker].map(existsSync)).toEqual([true, false]);
  });

  it('installs from a directory with both digests', async () => {
    const root = tree({ firecracker: program('Firecracker'), jailer: program('Jailer') });
    const digests = [digestOf(join(root, 'firecracker')), digestOf(join(root, 'jailer'))];
    await expect(install(root, digests[0] ?? '')).rejects.toThrow('two digests');
    await refuses(install(root, digests[1] ?? '', digests[0] ?? ''), /SHA-256/);
    expect(existsSync(ran)).toBe(false);
    expect((await install(root, ...digests)).version).toBe(VERSION);
  });

  it('downloads from a URL, with progress', async () => {
    const bytes = readFileSync(archive(tree(release())));
    const url = await serve((_, answer) => answer.setHeader('content-length', bytes.length).end(bytes));
    expect((await install(url, sha256(bytes))).version).toBe(VERSION);
    expect(context.events).toContainEqual(expect.objectContaining({ kind: 'update' }));
  });

  it('neither unpacks nor runs an archive with another digest', async () => {
    await refuses(install(archive(tree(release())), sha256('other')), /its SHA-256 is [0-9a-f]{64}/);
    expect(existsSync(ran)).toBe(false);
  });

  it.each([
    ['an answer of 404', (_: unknown, answer: Parameters<RequestListener>[1]) => answer.writeHead(404).end(), /404/],
    [
      'a connection that breaks off',
      (_: unknown, answer: Parameters<RequestListener>[1]) => {
        answer.setHeader('content-length', 100).write('half');
        setImmediate(() => answer.destroy());
      },
      /./,
    ],
  ])('reports %s as a failed download', async (_, listener, cause) => {
    const url = await serve(listener as RequestListener);
    const error: unknown = await install(url, sha256('')).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'install_failed', remedy: expect.any(String) });
    expect(describeError(error)).toMatch(cause);
    await nothingIsThere();
  });

  requiresRoot().it('reports a disk that fills up during a download as full', async () => {
    const bytes = Buffer.alloc(2 ** 21);
    const url = await serve((_, answer) => answer.end(bytes));
    const module = join(ROOT, 'src/artifacts/image/pinned-source.ts');
    const script = `
      const { copyPinned } = await import('${module}');
      const source = { from: '${url}', sha256: '${sha256(bytes)}', bytesMax: ${bytes.length} };
      await copyPinned(source, '${dir}/copy', { signal: new AbortController().signal })
        .catch(({ code }) => console.log(code));`;
    const small = 'mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"';
    const argv = ['--mount', 'sh', '-c', small, 'sh', dir, process.execPath, '-e', script];
    const { stdout } = await promisify(execFile)('unshare', argv);
    expect(stdout).toBe('ENOSPC\n');
  });

  it('refuses a download with too large an announced size before it begins', async () => {
    const url = await serve((_, answer) => void answer.setHeader('content-length', 1e12).flushHeaders());
    await refuses(install(url, sha256('')), /more than 256 MiB/);
  });

  it('ends a download that was canceled', async () => {
    const aborter = new AbortController();
    context = await testContext(aborter.signal);
    const url = await serve((_, answer) => {
      answer.write('some');
      setImmediate(() => aborter.abort());
    });
    await expect(install(url, sha256(''))).rejects.toMatchObject({ code: 'cancelled' });
    await nothingIsThere();
  });

  it('refuses a file that is no release archive', async () => {
    const path = join(dir, 'file');
    await refuses(install(join(dir, 'none'), sha256('')), /does not exist/);
    for (const content of ['', 'no archive', gzipSync('no tar'), gzipSync('')]) {
      writeFileSync(path, content);
      await refuses(install(path), /unpack|it has no firecracker/);
    }
    const whole = readFileSync(archive(tree(release())));
    writeFileSync(path, whole.subarray(0, whole.length >> 1));
    await refuses(install(path), /./);
    await refuses(install(archive(tree({ 'a/jailer': program('Jailer') }))), /no firecracker/);
    execFileSync('mkfifo', [join(dir, 'pipe')]);
    await refuses(install(join(dir, 'pipe'), sha256('')), /not a regular file/);
    symlinkSync('loop', join(dir, 'loop'));
    await refuses(install(join(dir, 'loop'), sha256('')), /read .*loop: ELOOP/);
  });

  it('extracts no path, link or special file of an archive', async () => {
    const root = tree(release());
    const victim = join(dir, 'victim');
    writeFileSync(victim, 'mine');
    // Paths that lead out, beside the programs: nothing is written there.
    const outside = archive(root, ['--transform', `s,.*/SHA256SUMS,${victim},`, '.']);
    expect((await install(outside)).version).toBe(VERSION);
    expect(readFileSync(victim, 'utf8')).toBe('mine');
    execFileSync('rm', ['-r', join(context.cacheDir, 'firecracker')]);
    const deep = archive(root, ['--transform', 's,.*/firecracker-v.*x86_64$,../../firecracker,', '.']);
    await refuses(install(deep), /no firecracker/);
    // Links in the programs' place.
    const jailer = join(root, RELEASE, `jailer-v${VERSION}-x86_64`);
    for (const link of [['-s', '/bin/true'], [victim]]) {
      execFileSync('ln', ['-f', ...link, jailer]);
      const linked = link.length === 1 ? [victim.slice(1), RELEASE] : ['.'];
      const from = link.length === 1 ? archive('/', [victim.slice(1), '-C', root, RELEASE]) : archive(root, linked);
      await refuses(install(from), /not a regular file/);
    }
    execFileSync('rm', [jailer]);
    mkdirSync(jailer);
    await refuses(install(archive(root)), /no jailer|not a regular file/);
    execFileSync('rm', ['-r', jailer]);
    execFileSync('mkfifo', [jailer]);
    await refuses(install(archive(root)), /not a regular file/);
    expect(readFileSync(victim, 'utf8')).toBe('mine');
  });

  it('stops at an archive or a file that unpacks beyond its limit', async () => {
    const MIB = 2 ** 20;
    const path = archive(tree({ zeros: '\0'.repeat(8 * MIB) }));
    const { signal } = context;
    const listing = listArchive(path, signal, 4 * MIB);
    await expect(listing).rejects.toMatchObject({ cause: 'it unpacks to more than 4 MiB' });
    const options = { mode: 0o600, bytesMax: 2 * MIB, signal };
    const extracting = extractFile(path, './zeros', join(dir, 'out'), options);
    await expect(extracting).rejects.toMatchObject({ cause: 'it unpacks to more than 2 MiB' });
    expect(statSync(join(dir, 'out')).size).toBeLessThanOrEqual(2 * MIB);
    expect(await listArchive(path, signal)).toEqual(['./', './zeros']);
  });

  it('refuses a jailer of another version', async () => {
    const other = archive(tree(release(VERSION, '1.17.0')));
    await refuses(install(other), /its jailer 1\.17\.0/);
  });

  it.each([
    ['a version below the floor', () => release('1.12.1'), 'older than 1.16.1'],
    ['a program that is none', () => ({ firecracker: 'a text', jailer: program('Jailer') }), "can't be used"],
  ])('refuses %s and installs nothing', async (_, files, why) => {
    const error: unknown = await install(archive(tree(files()))).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'vmm_missing' });
    expect(describeError(error)).toContain(why);
    await nothingIsThere();
  });
});

describe('withFirecracker', () => {
  const home = () => ({ cacheDir: context.cacheDir });
  const config = { firecracker: DEFAULT_FIRECRACKER };

  it('prefers the configured one, then the one in PATH, then the installed one', async () => {
    expect(await withFirecracker(config, home())).toEqual(config);
    const { firecracker } = await install(archive(tree(release())));
    expect(await withFirecracker(config, home())).toEqual({ firecracker });
    const named = { firecracker: '/opt/firecracker' };
    expect(await withFirecracker(named, home())).toEqual(named);
    const path = process.env['PATH'];
    onTestFinished(() => {
      process.env['PATH'] = path;
    });
    symlinkSync('/bin/true', join(dir, 'firecracker'));
    process.env['PATH'] = `${dir}:${path}`;
    expect(await withFirecracker(config, home())).toEqual(config);
  });

  it('explains why an installed one is not used', async () => {
    const made = await install(archive(tree(release())));
    expect(await explainUnused(config, home(), made)).toBeNull();
    const named = { firecracker: '/opt/firecracker' };
    expect(await explainUnused(named, home(), made)).toBe(
      'the installed Firecracker is not used: NEUROVISOR_FIRECRACKER is /opt/firecracker',
    );
    const path = process.env['PATH'];
    onTestFinished(() => {
      process.env['PATH'] = path;
    });
    symlinkSync('/bin/true', join(dir, 'firecracker'));
    process.env['PATH'] = `${dir}:${path}`;
    expect(await explainUnused(config, home(), made)).toMatch(
      /not used: another one is in PATH; remove it, or set NEUROVISOR_FIRECRACKER=\/.*\/firecracker$/,
    );
  });
});

describe('setup --firecracker', () => {
  const run = async (...words: string[]) =>
    await cli(['setup', ...words], { env: { NEUROVISOR_HOME: join(dir, 'home') } }).result;

  it.each([
    [['--firecracker', 'x.tgz'], 'needs the digest'],
    [['--firecracker', 'x.tgz', '--sha256', 'abc'], 'invalid --sha256 "abc"'],
    [['--sha256', 'a'.repeat(64)], '--sha256 belongs to --firecracker'],
  ])('%j: is a usage error', async (words, message) => {
    const { status, stderr } = await run(...words);
    expect({ status, stderr }).toEqual({ status: 2, stderr: expect.stringContaining(message) });
  });

  it('fails before any other set-up, as JSON if requested', async () => {
    const from = archive(tree(release()));
    const { status, stdout } = await run('--firecracker', from, '--sha256', sha256('x'), '-o', 'json');
    expect(status).toBe(125);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'source_invalid' } });
    expect(readdirSync(join(dir, 'home/cache'))).not.toContain('kernel');
  });
});

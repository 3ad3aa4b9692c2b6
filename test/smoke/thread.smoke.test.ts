/**
 * One thread through each real layer, with one daemon in a private internet: boot, clone, bridge and built-in engine,
 * network, pause to disk, fork, E2B's first call, a Dockerfile. What each layer guarantees in detail is in vm and e2e.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { prepareBuilderTools } from '../../src/artifacts/image/builder-tools.ts';
import { readConfig } from '../../src/base/config.ts';
import { resolveHome } from '../../src/base/home.ts';
import { silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import type { ServeReport } from '../../src/cli/commands/serve.ts';
import type { Daemon } from '../../src/cli/library/daemon.ts';
import type { SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { cli, ROOT } from '../support/cli.ts';
import { countBeyond, readCount, startCounter } from '../support/counter.ts';
import { vmmsIn } from '../support/daemon.ts';
import { ALLOWED, FORBIDDEN, METADATA, NetworkWorld } from '../support/network-world.ts';
import { exec, python } from '../support/vm.ts';

let world: NetworkWorld;
let control: Daemon;
let report: ServeReport;
/** A clone, which most cases share. */
let main: SandboxInfo;
let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-smoke-'));
  // Nothing that they are made from can be fetched from the private internet.
  const { cacheDir } = resolveHome(readConfig(process.env).home);
  const { signal } = new AbortController();
  await prepareBuilderTools({ cacheDir, sourceDir: ROOT, progress: silentProgress, signal, log: silentLog });
  world = await NetworkWorld.create();
  ({ control, report } = await world.serve({}, '--port', '0'));
});
afterAll(async () => {
  await control?.[Symbol.asyncDispose]();
  await world?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

const guest = (id = main.id) => control.guest(id);
const sh = async (script: string, id = main.id): Promise<string> =>
  (await exec(await guest(id), ['sh', '-c', script])).stdout.trim();

it('boot: a Linux guest starts from kernel and golden image, and runs Python', async () => {
  const { id, origin } = await control.create({ memoryMib: 256, diskMib: 64, boot: true });
  expect(origin).toBe('boot');
  expect(await sh('uname -r; id -un', id)).toMatch(/^6\.\d+\.\d+-neurovisor\nuser$/);
  expect((await python(await guest(id), 'print(6 * 7)')).stdout).toBe('42\n');
  await control.remove(id);
});

it('clone: a sandbox of the template has its imports, and no network card', async () => {
  main = await control.create({});
  expect(main).toMatchObject({ status: 'running', origin: 'clone', network: null });
  const code = "import sys; print('langchain_openai' in sys.modules)";
  expect((await python(await guest(), code)).stdout).toBe('True\n');
  expect(await sh('ls /sys/class/net')).toBe('lo');
});

it('bridge: the built-in model answers over vsock, and the guest has no key', async () => {
  const code = `
import json, os, urllib.request
body = json.dumps({'model': os.environ['NEUROVISOR_MODEL'], 'max_tokens': 4,
                   'messages': [{'role': 'user', 'content': 'hi'}]}).encode()
request = urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body,
                                 {'content-type': 'application/json'})
answer = json.load(urllib.request.urlopen(request))
print(answer['usage']['completion_tokens'] > 0, answer['choices'][0]['message']['role'])`;
  expect((await python(await guest(), code)).stdout).toBe('True assistant\n');
});

it('network: an allowed name is reached; other addresses and the metadata service are not', async () => {
  const network = { mode: 'allowlist', allow: [ALLOWED.name] } as const;
  const { id } = await control.create({ network });
  const get = async (host: string): Promise<string> => {
    const code = `
import urllib.error, urllib.request
try: print(urllib.request.urlopen('http://${host}/', timeout=2).read().decode().strip())
except urllib.error.HTTPError as error: print(error.code)
except urllib.error.URLError as error: print(type(error.reason).__name__)`;
    return (await python(await guest(id), code)).stdout.trim();
  };
  // A busy machine may need longer than a request is given.
  await expect.poll(() => get(ALLOWED.name)).toBe(`${ALLOWED.name} at ${ALLOWED.address}`);
  expect(await get(FORBIDDEN.name)).toBe('gaierror');
  expect(await get(FORBIDDEN.address)).toBe('403');
  expect(await get(METADATA)).toBe('TimeoutError');
  expect(await world.hostSees(METADATA)).toContain(METADATA);
  await control.remove(id);
  expect(await world.taps()).toEqual([]);
});

it('pause to disk, resume: the program continues, and the VMM was gone meanwhile', async () => {
  const begun = await startCounter(await guest());
  expect(await control.pause(main.id, 'disk')).toMatchObject({ status: 'paused' });
  expect(await vmmsIn(resolveHome(world.home).runDir)).toEqual([]);
  expect(await control.resume(main.id)).toMatchObject({ id: main.id, status: 'running' });
  const seen = await readCount(await guest());
  expect(await countBeyond(await guest(), seen.n)).toMatchObject({ pid: begun.pid });
});

it('fork: each copy continues what ran, as a sandbox of its own', async () => {
  const forks = await control.fork(main.id, { count: 2 });
  const ids = forks.map((fork) => (fork.ok ? fork.sandbox.id : fork.message));
  const identity = 'echo $NEUROVISOR_SANDBOX_ID; cat /proc/sys/kernel/random/boot_id';
  const seen = [await sh(identity)];
  for (const id of ids) {
    const { n } = await readCount(await guest(id));
    await countBeyond(await guest(id), n);
    seen.push(await sh(identity, id));
    await control.remove(id);
  }
  expect(seen.map((lines) => lines.split('\n')[0])).toEqual([main.id, ...ids]);
  expect(new Set(seen.map((lines) => lines.split('\n')[1])).size).toBe(3);
});

it('E2B: an unmodified client creates a sandbox, writes a file, runs a command, kills it', async () => {
  const url = report.url ?? '';
  const key = (await readFile(report.apiKeyPath ?? '', 'utf8')).trim();
  const env = [`E2B_API_KEY=${key}`, `E2B_API_URL=${url}`, `E2B_SANDBOX_URL=${url}`];
  const program = join(ROOT, 'test/fixtures/e2b-first-call.ts');
  const said = await world.host.run('env', ...env, process.execPath, program);
  expect(JSON.parse(said)).toEqual({ stdout: 'hellouser\n', exitCode: 0, isGone: true });
});

it('run --build: a Dockerfile is built in a VM, and its program runs', async () => {
  const lines = ['FROM agent', 'ARG WORD=built', 'RUN echo $WORD > /made', 'CMD ["cat", "/made"]'];
  await writeFile(join(dir, 'Dockerfile'), lines.join('\n'));
  const run = await cli(['run', '--build', dir], { env: { NEUROVISOR_HOME: world.home } }).result;
  expect(run, run.stderr).toMatchObject({ status: 0, stdout: 'built\n' });
});

it('remove: no VMM and no TAP is left', async () => {
  await control.remove(main.id);
  expect(await control.list()).toEqual([]);
  expect(await vmmsIn(resolveHome(world.home).runDir)).toEqual([]);
  expect(await world.taps()).toEqual([]);
});

/** Builds of Dockerfiles over REST: their events, callers that are refused, and hostile bodies. */
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { BuildContext } from '../../src/artifacts/dockerfile/context.ts';
import { DockerfileError } from '../../src/artifacts/dockerfile/errors.ts';
import { CopyError } from '../../src/artifacts/transfer/transfer.ts';
import { type ProgressEvent, silentProgress } from '../../src/base/progress.ts';
import { buildImage } from '../../src/cli/library/image-build.ts';
import type { BuildEvent, BuildWork, HomeContents, HomeImages } from '../../src/sandbox/contract/contents.ts';
import type { BuiltImage, ImageBuild } from '../../src/sandbox/contract/schema/contents.ts';
import { imagesOf, keepBuilt } from '../support/built-image.ts';
import { API_KEY, startHomeDaemon } from '../support/home-daemon.ts';

let dir: string;
let home: string;
let stack: AsyncDisposableStack;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-api-build-'));
  home = join(dir, 'home');
  mkdirSync(join(dir, 'files'));
  stack = new AsyncDisposableStack();
  write('Dockerfile', 'FROM scratch\nCOPY app /\n');
  write('app', 'the program');
});
afterEach(async () => {
  await stack.disposeAsync();
  rmSync(dir, { recursive: true });
});

const files = (): string => join(dir, 'files');
const write = (name: string, text: string): void => writeFileSync(join(files(), name), text);
const DIRECTORY = (): ImageBuild => ({
  dockerfile: 'FROM scratch\nCOPY app /\n',
  context: { kind: 'directory', dir: files() },
});
const SENT: ImageBuild = { dockerfile: 'FROM scratch\nCOPY app /\n', context: { kind: 'sent', from: 'here' } };

function work(more: Partial<BuildWork> = {}): BuildWork {
  return { progress: silentProgress, signal: new AbortController().signal, onEvent: () => undefined, ...more };
}

const withBuild =
  (build: HomeImages['build']) =>
  (own: HomeContents): HomeContents => ({ ...own, images: { ...own.images, build } });

/** Workspaces, which have the files that were sent. */
const leftovers = (): string[] => readdirSync(join(home, 'run')).filter((name) => name.length === 20);

const packed = async (): Promise<AsyncIterable<Uint8Array>> =>
  (await (await BuildContext.open(files(), null)).pack(new AbortController().signal)).archive;

it('events arrive in order, output byte by byte, then the result', async () => {
  await keepBuilt(home, files(), 'the disk');
  const [image] = await (async () => {
    const { connect } = await startHomeDaemon(home, stack);
    const { images } = await connect();
    await images.build(DIRECTORY(), null, work());
    return await images.list();
  })();
  await stack.disposeAsync();
  stack = new AsyncDisposableStack();
  const events: BuildEvent[] = [
    { kind: 'warning', text: 'VOLUME' },
    { kind: 'step', number: 1, stage: 'stage-0', index: 1, count: 1, line: 2, text: 'RUN x', cached: false },
    { kind: 'output', number: 1, stream: 'stderr', chunk: Buffer.from([0xff, 0x00, 0x0a]) },
    { kind: 'done', number: 1, durationMs: 5 },
    { kind: 'pack', stage: 'stage-0' },
  ];
  const result = { image, environment: { digest: 'sha256:1' }, warnings: ['VOLUME'], steps: { run: 1, cached: 0 } };
  const { connect } = await startHomeDaemon(
    home,
    stack,
    withBuild(async (_build, _files, { onEvent }) => {
      for (const event of events) onEvent(event);
      return result as BuiltImage;
    }),
  );
  const seen: BuildEvent[] = [];
  const { images } = await connect();
  const built = await images.build(DIRECTORY(), null, work({ onEvent: (event) => void seen.push(event) }));
  expect(seen).toEqual(events);
  expect(built).toEqual(result);
});

it('files of another machine: the same image as from their directory, with progress, and nothing is left', async () => {
  write('.dockerignore', 'secret\n');
  write('secret', 'not sent');
  write('Dockerfile', 'FROM scratch\nCOPY . /app/\n');
  mkdirSync(join(files(), 'empty'), { mode: 0o711 });
  symlinkSync('nowhere', join(files(), 'link'));
  chmodSync(files(), 0o750);
  chmodSync(join(files(), 'app'), 0o751);
  const dockerfile = readFileSync(join(files(), 'Dockerfile'), 'utf8');
  await keepBuilt(home, files(), 'the disk');
  const { connect } = await startHomeDaemon(home, stack);
  const { images } = await connect();
  const own = await images.build({ ...DIRECTORY(), dockerfile }, null, work());
  const elsewhere = { images: (await connect(API_KEY)).images, isElsewhere: true };
  const events: ProgressEvent[] = [];
  const progress = (event: ProgressEvent): void => void events.push(event);
  const where = { dir: files(), dockerfile: null };
  const sent = await buildImage(elsewhere, { dockerfile }, where, work({ progress }));
  expect(sent.image.digest).toBe(own.image.digest);
  expect(events.map(({ kind }) => kind)).toEqual(['start', ...events.slice(1, -1).map(() => 'update'), 'done']);
  expect(leftovers()).toEqual([]);
});

it('a name that COPY takes, but the ignore rules of the client leave out, is missing', async () => {
  const { connect } = await startHomeDaemon(home, stack);
  write('.dockerignore', 'app\n');
  const { images } = await connect(API_KEY);
  await expect(images.build(SENT, await packed(), work())).rejects.toMatchObject({
    code: 'context_invalid',
    message: expect.stringContaining('line 2'),
  });
  expect(leftovers()).toEqual([]);
});

it('a port: directories and archives of the host are refused, as base images, too', async () => {
  const { connect } = await startHomeDaemon(home, stack);
  const { images } = await connect(API_KEY);
  await expect(images.build(DIRECTORY(), null, work())).rejects.toMatchObject({ code: 'forbidden' });
  for (const base of [`docker-archive:${dir}/x.tar`, `oci:${dir}`, 'docker-daemon:a:b']) {
    const build = { ...SENT, dockerfile: `FROM ${base}\n` };
    await expect(images.build(build, await packed(), work())).rejects.toMatchObject({ code: 'forbidden' });
  }
});

it('errors keep their codes; a fault of the sender is what its caller gets', async () => {
  const { connect } = await startHomeDaemon(home, stack);
  const { images } = await connect(API_KEY);
  const build = (dockerfile: string) => async () => await images.build({ ...SENT, dockerfile }, await packed(), work());
  await expect(build('FROB x')()).rejects.toMatchObject({ code: 'dockerfile_invalid' });
  await expect(build('FROM scratch\nONBUILD RUN x')()).rejects.toMatchObject({ code: 'instruction_unsupported' });
  const secret = build('FROM scratch\nCOPY app /\nRUN --mount=type=secret,id=t,required true');
  await expect(secret()).rejects.toMatchObject({ code: 'secret_missing', remedy: expect.stringContaining('id=t') });
  await expect(images.build({ ...SENT, name: 'agent' }, await packed(), work())).rejects.toMatchObject({
    code: 'spec_invalid',
  });
  async function* broken(): AsyncGenerator<Uint8Array> {
    for await (const chunk of await packed()) {
      yield chunk;
      throw new CopyError('invalid_source', 'app changed');
    }
  }
  await expect(images.build(SENT, broken(), work())).rejects.toMatchObject({ message: 'app changed' });
  await expect.poll(leftovers).toEqual([]);
});

it('an abort while the files are sent ends the build, and leaves nothing', async () => {
  const { connect } = await startHomeDaemon(home, stack);
  const { images } = await connect(API_KEY);
  const aborter = new AbortController();
  async function* endless(): AsyncGenerator<Uint8Array> {
    for await (const first of await packed()) {
      yield first;
      break;
    }
    await expect.poll(leftovers).toHaveLength(1);
    aborter.abort(new Error('enough'));
    await new Promise(() => undefined);
  }
  const building = images.build(SENT, endless(), work({ signal: aborter.signal }));
  await expect(building).rejects.toMatchObject({ code: 'cancelled' });
  await expect.poll(leftovers).toEqual([]);
});

it('bodies that are no build: an error, and nothing is left', async () => {
  const { url } = await startHomeDaemon(home, stack);
  const ask = async (body: string | Buffer): Promise<[number | undefined, string]> => {
    const headers = { 'x-api-key': API_KEY, 'content-type': 'application/octet-stream' };
    const { promise, resolve, reject } = Promise.withResolvers<[number | undefined, string]>();
    const outgoing = request(`${url}/v1/images/build`, { method: 'POST', headers }, async (answer) => {
      resolve([answer.statusCode, await text(answer)]);
    });
    outgoing.on('error', reject);
    outgoing.end(body);
    return await promise;
  };
  const line = `${JSON.stringify(SENT)}\n`;
  expect(await ask('')).toEqual([400, expect.stringContaining('not valid JSON')]);
  expect(await ask('{}\n')).toEqual([400, expect.stringContaining('dockerfile')]);
  expect(await ask(`${JSON.stringify({ ...SENT, other: 1 })}\n`)).toEqual([400, expect.stringContaining('other')]);
  const secrets = `${JSON.stringify({ ...SENT, secrets: { t: 'SECRET!' } })}\n`;
  expect(await ask(secrets)).toEqual([400, expect.not.stringContaining('SECRET!')]);
  expect(await ask(Buffer.alloc(33 * 1024 * 1024, 'x'))).toEqual([413, expect.stringContaining('first line')]);
  // The stream has begun: the error is its end.
  const failed = [200, expect.stringMatching(/event: error\n.*home_context_invalid/)];
  expect(await ask(line)).toEqual(failed);
  expect(await ask(`${line}not an archive${'.'.repeat(600)}`)).toEqual(failed);
  expect(leftovers()).toEqual([]);
});

it('the audit log has the name and the outcome, and neither arguments nor secrets', async () => {
  const failing = withBuild(async () => {
    throw new DockerfileError('step_failed', 1, 'RUN x ended with status 1');
  });
  const { connect, audit } = await startHomeDaemon(home, stack, failing);
  const { images } = await connect();
  const secrets = { t: Buffer.from('the secret').toString('base64') };
  const build = { ...DIRECTORY(), name: 'web', args: { TOKEN: 'argument' }, secrets };
  await expect(images.build(build, null, work())).rejects.toMatchObject({ code: 'step_failed' });
  const log = async (): Promise<string> => {
    await audit.flush();
    return readFileSync(join(home, 'audit/audit.jsonl'), 'utf8');
  };
  await expect.poll(log).toContain('"target":"web","status":422');
  expect(await log()).not.toMatch(/argument|secret|dGhl/);
  expect(await imagesOf(home).list()).toEqual([]);
});

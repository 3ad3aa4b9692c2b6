/** The template builder of E2B's unmodified JavaScript client against our server; nothing is built. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LogEntry, Sandbox, Template, waitForPort } from 'e2b';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { BuildFailure } from '../../src/api/e2b/errors.ts';
import { BusyError } from '../../src/sandbox/contract/errors.ts';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

const dir = mkdtempSync(join(tmpdir(), 'nv-e2b-templates-'));
const templatesDir = join(dir, 'home');
let world: E2bWorld;

beforeAll(async () => {
  mkdirSync(join(dir, 'app/lib'), { recursive: true });
  writeFileSync(join(dir, 'app/main.py'), 'print(1)\n');
  writeFileSync(join(dir, 'app/lib/x.py'), '');
  world = await openE2bWorld({ templatesDir });
});
afterAll(async () => {
  await world[Symbol.asyncDispose]();
  rmSync(dir, { recursive: true, force: true });
});
afterEach(() => {
  world.builds.onBuild = async () => undefined;
});

const small = () => Template({ fileContextPath: dir }).fromTemplate('base').runCmd('true');
const call = async (method: string, path: string, body?: object): Promise<Response> =>
  await fetch(`${world.url}${path}`, {
    method,
    headers: { 'x-api-key': world.apiKey },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });

describe('Template.build', () => {
  it('sends steps, files, size and program to the builder', async () => {
    const template = Template({ fileContextPath: dir })
      .fromImage('debian:12')
      .setEnvs({ GREETING: 'hi there', OTHER: '$GREETING' })
      .setWorkdir('/srv')
      .copy('app', '/srv/app', { user: 'root', mode: 0o755 })
      .runCmd(['echo a', 'echo b'], { user: 'root' })
      .setUser('worker')
      .setStartCmd('python3 -m http.server 8000', waitForPort(8000));
    const logs: LogEntry[] = [];
    world.builds.onBuild = async (_wanted, say) => {
      say({ kind: 'output', step: 4, stream: 'stdout', chunk: Buffer.from('first\nsec') });
      say({ kind: 'output', step: 4, stream: 'stdout', chunk: Buffer.from('ond\u001b[31m') });
      say({ kind: 'output', step: 4, stream: 'stderr', chunk: Buffer.from('bad\n') });
    };
    const built = await Template.build(template, 'Team/My.App:v1', {
      ...world.client,
      cpuCount: 2,
      memoryMB: 512,
      tags: ['stable'],
      onBuildLogs: (entry) => logs.push(entry),
    });
    expect(built.tags).toEqual(['v1', 'stable']);
    const [wanted] = world.builds.wanted;
    expect(wanted).toMatchObject({
      name: `e2b-${built.buildId}`,
      from: { kind: 'image', name: 'debian:12' },
      size: { cpus: 2, memoryMib: 512 },
      isFresh: false,
      start: { command: 'python3 -m http.server 8000', ready: expect.stringContaining(':8000') },
      steps: [
        {
          kind: 'env',
          pairs: [
            ['GREETING', 'hi there'],
            ['OTHER', '$GREETING'],
          ],
        },
        { kind: 'workdir', path: '/srv' },
        { kind: 'copy', source: 'app', target: '/srv/app', owner: 'root', mode: '0755' },
        { kind: 'run', command: 'echo a && echo b', user: 'root' },
        { kind: 'user', user: 'worker' },
      ],
    });
    const [archive = Buffer.alloc(0)] = world.builds.archives;
    const listed = execFileSync('tar', ['-tzf', '-'], { input: archive, encoding: 'utf8' });
    expect(listed).toContain('app/main.py');
    const copy = wanted?.steps[2];
    expect(copy?.kind === 'copy' && copy.archive.sha256).toBe(createHash('sha256').update(archive).digest('hex'));
    const words = logs.map(({ level, message }) => `${level} ${message}`);
    expect(words).toEqual(
      expect.arrayContaining([
        'info [builder 4/5] RUN echo a && echo b',
        'info [builder 4/5] [stdout]: first',
        'info [builder 4/5] [stdout]: second?[31m',
        'warn [builder 4/5] [stderr]: bad',
        'info Build finished',
      ]),
    );
    expect(words.join('\n')).not.toContain('hi there');
    expect(await Template.exists('team/my.app', world.client)).toBe(true);
  });

  it('uploads files once', async () => {
    const template = () => Template({ fileContextPath: dir }).fromTemplate('base').copy('app', '/a');
    const skipped = async (): Promise<boolean> => {
      const logs: string[] = [];
      const onBuildLogs = ({ message }: LogEntry) => void logs.push(message);
      await Template.build(template(), 'files', { ...world.client, onBuildLogs });
      return logs.some((one) => one.startsWith('Skipping upload'));
    };
    expect([await skipped(), await skipped()]).toEqual([false, true]);
  });

  it('reports the step that failed, with its log', async () => {
    world.builds.onBuild = async (_wanted, say) => {
      say({ kind: 'output', step: 1, stream: 'stderr', chunk: Buffer.from('no such thing') });
      throw new BuildFailure(1, 'RUN true ended with status 1');
    };
    const logs: LogEntry[] = [];
    const build = Template.build(small(), 'broken', { ...world.client, onBuildLogs: (entry) => logs.push(entry) });
    await expect(build).rejects.toMatchObject({
      name: 'BuildError',
      message: 'RUN true ended with status 1',
      stack: expect.stringContaining('e2b-templates.test.ts'),
    });
    expect(logs.map(({ level, message }) => `${level} ${message}`)).toEqual(
      expect.arrayContaining(['warn [builder 1/1] [stderr]: no such thing', 'error RUN true ended with status 1']),
    );
    expect(await Template.exists('broken', world.client)).toBe(false);
  });

  it('fails if its tenant’s quota is used up when its turn comes, and names the quota', async () => {
    const { admit } = world;
    world.admit = () => {
      throw new BusyError('quota of tenant acme: 1 of 1 MiB of memory are used', 1000);
    };
    const build = Template.build(small(), 'large', { ...world.client, memoryMB: 4096 });
    await expect(build).rejects.toThrow('quota of tenant acme');
    const admitted: (string | number | null)[] = [];
    world.admit = (tenant, memoryMib) => {
      admitted.push(tenant, memoryMib);
      return () => void admitted.push('released');
    };
    await Template.build(small(), 'large', { ...world.client, memoryMB: 4096 });
    expect(admitted).toEqual([null, 4096, 'released']);
    world.admit = admit;
  });

  it('does not disclose a bug of the builder, only where to look', async () => {
    world.builds.onBuild = async () => {
      throw new TypeError('a secret path');
    };
    const build = Template.build(small(), 'buggy', world.client);
    await expect(build).rejects.toThrow('see the log of the daemon');
    expect(world.errors.splice(0).join()).toContain('a secret path');
  });

  it('refuses credentials of a registry, and names that are taken', async () => {
    const login = { username: 'me', password: 'hush' };
    const image = Template().fromImage('example.com/a:1', login);
    const build = Template.build(image, 'private', world.client);
    await expect(build).rejects.toThrow(/credentials of a registry.*docker login/);
    await expect(Template.build(small(), 'base', world.client)).rejects.toThrow('reserved');
    await expect(Template.build(small(), 'a b', world.client)).rejects.toThrow('invalid template');
  });

  it('turns a Dockerfile into steps', async () => {
    const template = Template({ fileContextPath: dir }).fromDockerfile(
      'FROM e2bdev/base\nENV A=1\nCOPY app /app\nRUN echo "$A"\nCMD ["sleep", "5"]\n',
    );
    await Template.build(template, 'by-dockerfile', world.client);
    const wanted = world.builds.wanted.at(-1);
    expect(wanted?.from).toEqual({ kind: 'template', name: 'base' });
    expect(wanted?.start?.command).toBe('sleep 5');
    expect(wanted?.steps.map(({ kind }) => kind)).toEqual(['user', 'workdir', 'env', 'copy', 'run', 'user', 'workdir']);
  });

  it('starts from a template of this client, with its program', async () => {
    const first = await Template.build(small().setStartCmd('serve', 'check'), 'parent:v2', world.client);
    const child = Template().fromTemplate('parent:v2').runCmd('true');
    await Template.build(child, 'child', world.client);
    expect(world.builds.wanted.at(-1)).toMatchObject({
      from: { kind: 'template', name: `e2b-${first.buildId}` },
      start: { command: 'serve', ready: 'check' },
    });
  });

  it('in the background: the client polls its status', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    world.builds.onBuild = async () => await promise;
    const started = await Template.buildInBackground(small(), 'slow', world.client);
    const before = await Template.getBuildStatus(started, world.client);
    expect(['waiting', 'building']).toContain(before.status);
    resolve();
    await expect.poll(async () => (await Template.getBuildStatus(started, world.client)).status).toBe('ready');
  });
});

describe('tags', () => {
  it('point to builds; one that loses its last tag can still be started by its id', async () => {
    const one = await Template.build(small(), 'tagged:v1', world.client);
    const two = await Template.build(small(), 'tagged:v2', world.client);
    const assigned = await Template.assignTags('tagged:v1', ['production'], world.client);
    expect(assigned).toEqual({ buildId: one.buildId, tags: ['production'] });
    const tags = await Template.getTags('tagged', world.client);
    expect(tags.map(({ tag, buildId }) => [tag, buildId])).toEqual([
      ['v1', one.buildId],
      ['v2', two.buildId],
      ['production', one.buildId],
    ]);
    await Template.removeTags('tagged', 'v1', world.client);
    expect(world.builds.removed).not.toContain(`e2b-${one.buildId}`);
    await Template.assignTags('tagged:v2', 'production', world.client);
    expect((await Template.getTags('tagged', world.client)).map(({ buildId }) => buildId)).not.toContain(one.buildId);
    for (const build of [one, two]) {
      const sandbox = await Sandbox.create(`tagged:${build.buildId}`, world.client);
      expect((await world.control.get(sandbox.sandboxId)).template).toBe(`e2b-${build.buildId}`);
      await sandbox.kill();
    }
    expect(world.builds.removed).not.toContain(`e2b-${one.buildId}`);
    await expect(Template.removeTags('tagged', 'v9', world.client)).rejects.toThrow('v9');
    await expect(Template.assignTags('nothing:v1', 'x', world.client)).rejects.toThrow('nothing');
  });
});

describe('templates', () => {
  it('are listed, shown, changed and removed', async () => {
    const { templateId, buildId } = await Template.build(small(), 'listed', { ...world.client, memoryMB: 2048 });
    const list = (await (await call('GET', '/templates')).json()) as { templateID: string }[];
    expect(list.find(({ templateID }) => templateID === templateId)).toMatchObject({
      names: ['listed'],
      buildID: buildId,
      memoryMB: 2048,
      public: false,
    });
    const changed = await call('PATCH', `/templates/${templateId}`, { public: true });
    expect(await changed.json()).toEqual({ names: ['listed'] });
    expect(await (await call('GET', `/templates/${templateId}`)).json()).toMatchObject({
      public: true,
      builds: [{ buildID: buildId, status: 'ready' }],
    });
    expect((await call('DELETE', `/templates/${templateId}`)).status).toBe(204);
    expect((await call('DELETE', `/templates/${templateId}`)).status).toBe(404);
    expect(world.builds.removed).toContain(`e2b-${buildId}`);
  });

  it('sandboxes start from them by name, tag and id', async () => {
    const { templateId, buildId } = await Template.build(small(), 'Started', world.client);
    for (const name of ['started', 'started:default', templateId, `started:${buildId}`, `${templateId}:${buildId}`]) {
      const sandbox = await Sandbox.create(name, world.client);
      const [info] = await world.control.list();
      expect(info?.template).toBe(`e2b-${buildId}`);
      await sandbox.kill();
    }
  });

  it('that are unknown, or not finished, are told apart as Harbor does', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    world.builds.onBuild = async () => await promise;
    const running = await Template.buildInBackground(small(), 'unready', world.client);
    const refusal = (name: string) => Sandbox.create(name, world.client).catch((error: Error) => error.message);
    expect(await refusal(`unready:${running.buildId}`)).toBe(
      `404: tag '${running.buildId}' does not exist for template 'unready'`,
    );
    resolve();
    const unknown = await refusal('unready:5b0f8e52-5f7a-4d0e-9d0b-0d7f7b7a4c11');
    expect(unknown).toMatch(/^404: there is no template or snapshot /);
    expect(unknown).not.toContain('does not exist');
    await expect.poll(async () => (await Template.getBuildStatus(running, world.client)).status).toBe('ready');
    await (await Sandbox.create(`unready:${running.buildId}`, world.client)).kill();
  });

  it('survive a restart of the server; an unfinished build does not', async () => {
    const built = await Template.build(small(), 'kept:v1', world.client);
    world.builds.onBuild = async (_wanted, _say, signal) =>
      await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    const lost = await Template.buildInBackground(small(), 'lost', world.client);
    await world[Symbol.asyncDispose]();
    world = await openE2bWorld({ templatesDir });
    expect((await Template.getBuildStatus(built, world.client)).status).toBe('ready');
    await expect(Template.getBuildStatus(lost, world.client)).rejects.toThrow('end with the daemon');
    const [tag] = await Template.getTags('kept', world.client);
    expect(tag).toMatchObject({ tag: 'v1', buildId: built.buildId });
    expect(statSync(join(templatesDir, 'e2b-templates/.operator.json')).mode & 0o777).toBe(0o600);
  });
});

describe('uploads', () => {
  const link = async (hash: string): Promise<{ url: string; present: boolean }> => {
    const made = await call('POST', '/v3/templates', { name: 'uploads' });
    const { templateID } = (await made.json()) as { templateID: string };
    const answer = await call('GET', `/templates/${templateID}/files/${hash}`);
    expect(answer.status).toBe(201);
    return (await answer.json()) as { url: string; present: boolean };
  };
  const put = async (url: string, body: string): Promise<number> => (await fetch(url, { method: 'PUT', body })).status;

  it('need a URL of ours, which works once and without a key', async () => {
    const hash = 'a'.repeat(64);
    const { url, present } = await link(hash);
    expect(present).toBe(false);
    expect(
      await put(
        url.replace(/.$/, (last) => (last === 'A' ? 'B' : 'A')),
        'x',
      ),
    ).toBe(403);
    expect(await put(url, 'an archive')).toBe(200);
    expect(await put(url, 'another')).toBe(403);
    expect((await link(hash)).present).toBe(true);
  });

  it('leave nothing behind but themselves, for any hash', async () => {
    const made = await call('POST', '/v3/templates', { name: 'uploads' });
    const { templateID } = (await made.json()) as { templateID: string };
    for (const hash of ['..%2F..%2Fx', 'A'.repeat(64), 'a'.repeat(63)]) {
      const answer = await call('GET', `/templates/${templateID}/files/${hash}`);
      expect(answer.status).toBe(400);
    }
    expect((await call('GET', `/templates/nothing/files/${'a'.repeat(64)}`)).status).toBe(404);
    const names = readdirSync(join(templatesDir, 'uploads/.operator'));
    expect(names.filter((name) => !/^[0-9a-f]{64}-[0-9a-f]{64}$/.test(name))).toEqual([]);
  });

  it('must exist when a build names them', async () => {
    const made = await call('POST', '/v3/templates', { name: 'uploads' });
    const { templateID, buildID } = (await made.json()) as { templateID: string; buildID: string };
    const steps = [{ type: 'COPY', args: ['a', '/a'], filesHash: 'b'.repeat(64) }];
    const path = `/v2/templates/${templateID}/builds/${buildID}`;
    const answer = await call('POST', path, { fromImage: 'debian', steps });
    expect([answer.status, await answer.json()]).toEqual([
      400,
      { code: 400, message: 'step 1: COPY has files that were not uploaded' },
    ]);
  });

  it('log no error', () => expect(world.errors).toEqual([]));
});

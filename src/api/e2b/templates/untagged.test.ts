import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { eventually } from '../../../../test/support/eventually.ts';
import { type Clock, FakeClock } from '../../../base/clock.ts';
import { silentLog } from '../../../base/log.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { TemplateBuilds } from '../parts.ts';
import { localNameOf } from './names.ts';
import { BuildTurns, Templates } from './templates.ts';
import { UploadUrls } from './uploads.ts';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;

describe('an untagged build', () => {
  const time = new FakeClock();
  const clock: Clock = { now: () => time.now(), wall: () => time.wall(), after: (ms, run) => time.after(ms, run) };
  let dir: string;
  let removed: string[];
  let sandboxes: Pick<SandboxInfo, 'template'>[];
  let untilBuilt: Promise<void>;
  let templates: Templates;

  const open = async (): Promise<Templates> => {
    const builds: TemplateBuilds = {
      build: async () => {
        await untilBuilt;
        return { cpus: 1, memoryMib: 512, diskMib: 1024, files: { key: 'k', bytes: 1 } };
      },
      remove: async (name) => void removed.push(name),
      has: async () => false,
      memoryMibOf: () => 1,
    };
    const places = { stateDir: join(dir, 'state'), uploadsDir: join(dir, 'uploads') };
    const control = { list: async () => sandboxes as SandboxInfo[] };
    const callers = { askerOf: () => null };
    const parts = { clock, log: silentLog, urls: new UploadUrls(clock), turns: new BuildTurns(), control, callers };
    return await Templates.open({ ...parts, templates: { builds, ...places } }, 'acme');
  };
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nv-untagged-'));
    removed = [];
    sandboxes = [];
    untilBuilt = Promise.resolve();
    templates = await open();
  });
  afterEach(async () => {
    await templates[Symbol.asyncDispose]();
    await rm(dir, { recursive: true, force: true });
  });

  async function start(name: string): Promise<{ templateId: string; build: string }> {
    const { templateId, build } = templates.request({ name });
    await templates.start(templateId, build, { fromImage: 'alpine', steps: [] });
    return { templateId, build };
  }
  async function build(name = 'web:v1'): Promise<string> {
    const one = await start(name);
    await eventually(() => expect(templates.status(one.templateId, one.build, 0, 1).status).toBe('ready'));
    return one.build;
  }
  const isSwept = (id: string) => eventually(() => expect(removed).toContain(localNameOf(id)));
  /** Lets a sweep finish that finds nothing. */
  const settle = async () => {
    for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  };

  it('is found by NAME:BUILD_ID and ID:BUILD_ID, also while it has a tag', async () => {
    const first = await build();
    expect(templates.localName(`Web:${first}`)).toBe(localNameOf(first));
    const second = await build();
    expect(templates.localName('web:v1')).toBe(localNameOf(second));
    expect(templates.localName(`web:${first}`)).toBe(localNameOf(first));
    const [{ id = '' } = {}] = templates.all;
    expect(templates.localName(`${id}:${first}`)).toBe(localNameOf(first));
    expect(templates.localName('web:5b0f8e52-5f7a-4d0e-9d0b-0d7f7b7a4c11')).toBeUndefined();
    const other = await build('other:v1');
    expect(templates.localName(`web:${other}`)).toBeUndefined();
  });

  it('is removed an hour after its last use, and no tagged build is', async () => {
    const first = await build();
    const second = await build();
    time.advance(HOUR_MS / 2);
    expect(templates.localName(`web:${first}`)).toBe(localNameOf(first));
    time.advance(HOUR_MS - 1);
    await settle();
    expect(removed).toEqual([]);
    time.advance(MINUTE_MS);
    await isSwept(first);
    expect(templates.localName(`web:${first}`)).toBeUndefined();
    time.advance(10 * HOUR_MS);
    await settle();
    expect(removed).toEqual([localNameOf(first)]);
    expect(templates.localName('web:v1')).toBe(localNameOf(second));
  });

  it('stays while a sandbox has it', async () => {
    const first = await build();
    sandboxes = [{ template: localNameOf(first) }];
    await build();
    time.advance(HOUR_MS);
    await settle();
    expect(removed).toEqual([]);
    sandboxes = [];
    time.advance(HOUR_MS);
    await isSwept(first);
  });

  it('that gets a tag again stays', async () => {
    const first = await build();
    await build();
    await templates.tag(`web:${first}`, ['stable']);
    time.advance(2 * HOUR_MS);
    await settle();
    expect(removed).toEqual([]);
    expect(templates.localName('web:stable')).toBe(localNameOf(first));
  });

  it('outlives the daemon by an hour', async () => {
    const first = await build();
    await build();
    await templates[Symbol.asyncDispose]();
    templates = await open();
    time.advance(HOUR_MS - 1);
    await settle();
    expect(templates.localName(`web:${first}`)).toBe(localNameOf(first));
    time.advance(HOUR_MS);
    await isSwept(first);
  });

  it('of a tenant with many is removed at once, the least recently used first', async () => {
    const ids = [];
    for (let count = 0; count <= E2B_LIMITS.buildsUntaggedMax + 1; count += 1) {
      time.advance(1);
      ids.push(await build());
    }
    await isSwept(ids[0] ?? '');
    await settle();
    expect(removed).toEqual([localNameOf(ids[0] ?? '')]);
  });

  it('that is not finished is told from an unknown one by E2B’s words', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    untilBuilt = promise;
    const running = await start('web:v1');
    expect(() => templates.localName(`web:${running.build}`)).toThrow(
      expect.objectContaining({ status: 404, message: `tag '${running.build}' does not exist for template 'web'` }),
    );
    expect(templates.localName(`other:${running.build}`)).toBeUndefined();
    resolve();
    await eventually(() => expect(templates.localName(`web:${running.build}`)).toBe(localNameOf(running.build)));
  });
});

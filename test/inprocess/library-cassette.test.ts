/** The library's cassettes: sandboxes of one record or play, over the real bridge. The VMs are fakes. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { OpenedPlane } from '../../src/cli/library/local.ts';
import type { RuntimeTape } from '../../src/host/runtime/model-servers/tape.ts';
import { Cassette, CassetteError, Sandbox } from '../../src/index.ts';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';

const CHAT = '/v1/chat/completions';
const chat = (text: string) => ({ model: 'm1', messages: [{ role: 'user', content: text }] });

let dir: string;
let path: string;
/** Bridges of open planes, for the requests of their sandboxes. */
const bridges: BridgeFixture[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-cassette-'));
  path = join(dir, 'agent.cassette.json');
});
afterEach(async () => {
  for (const one of bridges.splice(0)) await one.close();
  await rm(dir, { recursive: true });
});

/** Replaces a runtime: a bridge with the tape, and a fake control plane. */
async function start(_: unknown, tape: RuntimeTape): Promise<OpenedPlane> {
  const player = tape.upstream?.source(Promise.resolve(null));
  const fixture = await bridgeFixture({
    tape: tape.tape,
    ...(typeof player === 'function' ? { upstream: player } : {}),
  });
  bridges.push(fixture);
  const control = new FakeControlPlane({});
  return {
    control,
    close: async () => {
      bridges.splice(bridges.indexOf(fixture), 1);
      await control[Symbol.asyncDispose]();
      await fixture.close();
      await tape.close('m1');
    },
  };
}

/** The answers that a sandbox of the cassette gets for each text. */
async function ask(cassette: Cassette, ...texts: readonly string[]): Promise<string[]> {
  await using _sandbox = await Sandbox.create({ cassette });
  const answers: string[] = [];
  for (const text of texts) {
    const answer = await bridges[0]?.call(CHAT, chat(text));
    const body = JSON.parse(answer?.body ?? '{}');
    answers.push(body.error?.code ?? body.choices[0].message.content);
  }
  return answers;
}

async function recorded(...texts: readonly string[]): Promise<Cassette> {
  const cassette = await Cassette.record(path, start);
  await ask(cassette, ...texts);
  return cassette;
}

describe('Cassette', () => {
  it('records from several sandboxes in one process, and replays without a model', async () => {
    const recording = await recorded('a');
    // The plane has closed with its last sandbox; the next one opens another.
    expect(bridges).toEqual([]);
    await ask(recording, 'b');
    expect(await recording.close()).toEqual({ mode: 'record', path, answered: 2, unanswered: 0, missing: [] });
    const file = JSON.parse(await readFile(path, 'utf8'));
    expect([file.defaultModel, file.exchanges.length]).toEqual(['m1', 2]);

    const replay = await Cassette.replay(path, start);
    expect(await ask(replay, 'b', 'a')).toEqual(['hello', 'hello']);
    expect(await replay.close()).toMatchObject({ mode: 'replay', answered: 2, unanswered: 0 });
    await replay[Symbol.asyncDispose]();
  });

  it('reports missing requests of all its sandboxes, and throws at the end of a scope', async () => {
    await recorded('a');
    const replay = await Cassette.replay(path, start);
    expect(await ask(replay, 'b')).toEqual(['not_in_cassette']);
    expect(await ask(replay, 'a', 'c')).toEqual(['hello', 'not_in_cassette']);
    const report = replay.report();
    expect(report).toMatchObject({ answered: 1, unanswered: 2 });
    expect(report.missing.map(({ difference }) => difference)).toEqual([
      expect.stringContaining('asked "b"'),
      expect.stringContaining('asked "c"'),
    ]);
    const scope = async (): Promise<void> => {
      await using _ = replay;
    };
    await expect(scope()).rejects.toMatchObject({
      constructor: CassetteError,
      code: 'not_in_cassette',
      message: expect.stringMatching(/^2 requests had no answer in the cassette .*asked "b"/),
      remedy: expect.any(String),
    });
  });

  it('a recording replaces the file as a whole, and leaves it if there was no request', async () => {
    await (await recorded('a')).close();
    const before = await readFile(path, 'utf8');
    await (await recorded()).close();
    expect(await readFile(path, 'utf8')).toBe(before);
    await (await recorded('b')).close();
    const { exchanges } = JSON.parse(await readFile(path, 'utf8'));
    expect(exchanges.map((one: { request: { body: unknown } }) => one.request.body)).toEqual([
      { messages: [{ role: 'user', content: 'b' }] },
    ]);
  });

  it('rejects a file that is no cassette, before a sandbox starts, and never replaces it', async () => {
    await writeFile(path, 'a text');
    const invalid = { constructor: CassetteError, code: 'cassette_invalid' };
    await expect(Cassette.replay(path, start)).rejects.toMatchObject(invalid);
    await expect(Cassette.record(path, start)).rejects.toMatchObject(invalid);
    expect(await readFile(path, 'utf8')).toBe('a text');
    await expect(Cassette.replay(join(dir, 'none.json'), start)).rejects.toMatchObject({
      code: 'cassette_failed',
      remedy: expect.stringContaining('record it first'),
    });
  });

  it('reports a failed write after the sandbox has ended properly', async () => {
    const cassette = await Cassette.record(join(dir, 'sub', '..', 'gone', 'c.json'), start).catch(
      (error: unknown) => error,
    );
    expect(cassette).toMatchObject({ constructor: CassetteError, code: 'cassette_failed' });
    const recording = await recorded('a');
    await rm(dir, { recursive: true });
    await expect(recording.close()).rejects.toMatchObject({ code: 'cassette_failed' });
    dir = await mkdtemp(join(tmpdir(), 'nv-cassette-'));
  });

  it('accepts no sandbox of a daemon, and none after its end', async () => {
    const cassette = await recorded('a');
    for (const daemon of ['require', 'http://127.0.0.1:1'] as const) {
      await expect(Sandbox.create({ cassette, daemon })).rejects.toMatchObject({
        constructor: CassetteError,
        code: 'cassette_daemon',
      });
    }
    await using sandbox = await Sandbox.create({ cassette, daemon: 'never' });
    expect((await Sandbox.connect(sandbox.id, { cassette })).id).toBe(sandbox.id);
    await sandbox.kill();
    await cassette.close();
    await expect(Sandbox.create({ cassette })).rejects.toMatchObject({ code: 'cassette_closed' });
  });
});

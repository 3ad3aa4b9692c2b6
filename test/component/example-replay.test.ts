/** `examples/replay`: the agent runs with its cassette, without a model. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { cassetteText, parseCassette } from '../../src/inference/bridge/tape/cassette.ts';
import { Player } from '../../src/inference/bridge/tape/player.ts';
import { Recorder } from '../../src/inference/bridge/tape/recorder.ts';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { ROOT } from '../support/cli.ts';
import { completion, sendJson } from '../support/mock-upstream.ts';

const AGENT = join(ROOT, 'examples/replay/agent.py');
const CASSETTE = readFileSync(join(ROOT, 'examples/replay/agent.cassette.json'));

let cleanup = new CleanupStack();
afterEach(async () => {
  await cleanup.run();
  cleanup = new CleanupStack();
});

/** Runs the agent as in a sandbox. */
async function run(fixture: BridgeFixture, script: string, model: string) {
  cleanup.push('bridge', () => fixture.close());
  const forwarder = createServer((socket) => {
    const port = connect(fixture.socketPath);
    for (const end of [socket, port]) end.on('error', () => socket.destroy());
    socket.pipe(port).pipe(socket);
  });
  await new Promise<void>((resolve) => void forwarder.listen(0, '127.0.0.1', resolve));
  cleanup.push('forwarder', () => forwarder.close());
  const { port } = forwarder.address() as AddressInfo;
  const env = { OPENAI_BASE_URL: `http://127.0.0.1:${port}/v1`, NEUROVISOR_MODEL: model };
  return await new Promise<{ status: number; stdout: string }>((resolve) => {
    execFile('python3', ['-c', script], { env }, (error, stdout) => {
      resolve({ status: error === null ? 0 : 1, stdout });
    });
  });
}

it('answers from the cassette; a changed agent is refused, with the difference', async () => {
  const script = await readFile(AGENT, 'utf8');
  const replay = async (text: string) => {
    const cassette = parseCassette(CASSETTE);
    const player = new Player(cassette);
    const fixture = await bridgeFixture({ tape: player, upstream: async () => player.target });
    const ended = await run(fixture, text, cassette.defaultModel ?? '');
    return { ...ended, requests: fixture.mock.requests.length, missing: player.missing };
  };
  const expected = { status: 0, stdout: 'It has 4 words.\n', requests: 0, missing: [] };
  expect(await replay(script)).toEqual(expected);
  const changed = await replay(script.replace('Use the tool.', 'Use a tool.'));
  expect(changed).toMatchObject({ status: 1, requests: 0 });
  expect(changed.missing[0]?.difference).toContain('asked "…fox\' have? Use a tool."');
});

it('a new recording is identical byte by byte', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'nv-replay-'));
  cleanup.push('directory', () => rm(dir, { recursive: true }));
  const tape = new Recorder();
  const fixture = await bridgeFixture({ tape, models: ['smollm2-360m-instruct'] });
  const call = {
    id: 'call_of_the_server',
    type: 'function',
    function: { name: 'count_words', arguments: '{"text": "the quick brown fox"}' },
  };
  const message = { role: 'assistant', content: null, tool_calls: [call] };
  const first = { id: 'chatcmpl-1', created: 1795673206, object: 'chat.completion' };
  const choices = [{ index: 0, message, finish_reason: 'tool_calls' }];
  fixture.mock.answer(({ body }, response) =>
    sendJson(response, 200, body.includes('tool_call_id') ? completion('It has 4 words.') : { ...first, choices }),
  );
  const ended = await run(fixture, await readFile(AGENT, 'utf8'), 'smollm2-360m-instruct');
  expect(ended).toEqual({ status: 0, stdout: 'It has 4 words.\n' });
  await fixture.close();
  const exchanges = tape.exchanges();
  expect(cassetteText({ defaultModel: 'smollm2-360m-instruct', exchanges })).toBe(CASSETTE.toString());
});

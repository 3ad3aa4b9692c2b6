/** Unmodified clients of model servers in a guest without a network card, pointed by its variables alone. */
import { execFileSync } from 'node:child_process';
import { createReadStream, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Supervisor } from '../../src/sandbox/vm/supervisor.ts';
import { sendAnswer } from '../support/completions.ts';
import { type Recorded, sendJson, startMockUpstream } from '../support/mock-upstream.ts';
import { guestNode, guestPackages, MODEL_CLIENTS_DIR } from '../support/model-clients.ts';
import { requires } from '../support/requires.ts';
import { exec, python, useRuntime } from '../support/vm.ts';

const upstream = await startMockUpstream({ models: ['m1'] });
const fixture = useRuntime(upstream.target.baseUrl ?? '');

beforeAll(() => upstream.answer(answer));
afterAll(() => upstream.close());

const CALLS = ['Paris', 'Rom'].map((city, i) => ({
  id: `call_${i}`,
  name: 'weather',
  arguments: JSON.stringify({ city }),
}));

/** How the client sees a save that comes while it waits. */
const SAVED = `
import openai
client = openai.OpenAI(max_retries=0)
try:
    client.chat.completions.create(model='m1', messages=[{'role': 'user', 'content': 'never answered'}])
except openai.APIStatusError as error:
    seen = f'{error.status_code} {error.code}'
except openai.APIError as error:
    seen = type(error).__name__
open('/tmp/seen', 'w').write(seen)
`;

/** What the scripted model says to the last message. */
function answer({ body }: Recorded, response: ServerResponse): void {
  const { messages } = JSON.parse(body) as { messages: { role: string; content: string }[] };
  const last = messages.at(-1);
  if (last?.role === 'tool') {
    const results = messages.filter(({ role }) => role === 'tool');
    sendAnswer(body, response, { text: results.map(({ content }) => content).join('; ') });
  } else if (last?.content === 'always wrong') {
    sendJson(response, 400, { error: { message: 'wrong' } });
  } else if (last?.content !== 'never answered') {
    sendAnswer(body, response, last?.content === 'weather' ? { calls: CALLS } : { text: 'hällo 🙂' });
  }
}

/** What Python and Node.js need in the guest, or why there is none. */
function guestClients(): { readonly packages: string; readonly root: string } | string {
  const forPython = guestPackages();
  if (typeof forPython === 'string') return forPython;
  const forNode = guestNode();
  return typeof forNode === 'string' ? forNode : { ...forPython, ...forNode };
}

/** What only compilers and debuggers read. */
const UNREAD = ['*.ts', '*.mts', '*.cts', '*.map', '.bin'].map((name) => `--exclude=${name}`);

requires('generators', guestClients()).describe('clients in a guest', ({ packages, root }) => {
  const dir = mkdtempSync(join(tmpdir(), 'nv-bridge-clients-'));
  afterAll(() => {
    for (const one of [dir, root]) rmSync(one, { recursive: true });
  });
  let sandbox: Supervisor;
  let seen: { readonly client: string }[];

  // One program for each language: nearly all of the time is imports.
  beforeAll(async () => {
    const archive = join(dir, 'archive');
    const script = ['-C', MODEL_CLIENTS_DIR, 'guest.py'];
    // Not the directory itself, which only its owner may read.
    const forNode = ['-C', root, ...UNREAD, ...readdirSync(root)];
    execFileSync('tar', ['-chf', archive, '-C', packages, '.', ...script, ...forNode]);
    const { runtime } = fixture;
    // LangChain with `openai` is imported there already.
    const template = await runtime.templateSource.templateFor({});
    if (template === null) throw new Error('there is no template to clone');
    const { spec, source } = template;
    sandbox = await runtime.startVm({ warm: spec.warm }, undefined, { template: source });
    const guest = sandbox.guest();
    await guest.files.write('/opt/archive', createReadStream(archive), { user: 'root' });
    const unpack = ['tar', '-xf', '/opt/archive', '-C', '/opt', '--no-same-owner'];
    expect(await exec(guest, unpack, { user: 'root' })).toMatchObject({ exitCode: 0, stderr: '' });
    const ended = await python(guest, "import sys; sys.path.append('/opt'); import guest");
    expect(ended).toMatchObject({ exitCode: 0, stderr: '' });
    const node = await exec(guest, ['/opt/bin/node', '/opt/main.mjs']);
    expect(node).toMatchObject({ exitCode: 0, stderr: '' });
    seen = (ended.stdout + node.stdout)
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { client: string });
  });

  afterAll(() => sandbox.stop());

  it.each([
    'OpenAIChat',
    'OpenAIResponses',
    'LangChainOpenAI',
    'Ollama',
    'LangChainOllama',
    'Anthropic',
    'LangChainAnthropic',
    'NodeOpenAIChat',
    'NodeOpenAIResponses',
    'NodeAnthropic',
    'AiChat',
    'AiResponses',
    'AiMessages',
  ])('%s: a plain answer, a stream, a tool call, an error', (client) => {
    expect(seen.find((one) => one.client === client)).toEqual({
      client,
      plain: 'hällo 🙂',
      stream: 'hällo 🙂',
      tool: 'sunny in Paris; sunny in Rom',
      error: 400,
    });
  });

  it('a save while a client waits is an error that tells it to retry', async () => {
    const asked = upstream.next();
    await sandbox.guest().python({ script: { code: SAVED }, stdin: false, detached: true });
    const { aborted } = await asked;
    const nothing = async (): Promise<void> => {};
    const ramPath = join(dir, 'ram');
    const keepMemory = (): Promise<void> => writeFile(ramPath, '');
    const memory = { statePath: join(dir, 'state'), ramPath, keepMemory };
    const target = { memory, keepDisk: nothing, keepEnvironment: nothing };
    await sandbox.save(target, 'continue', nothing);
    await aborted;
    const read = (): Promise<string> =>
      sandbox
        .guest()
        .files.readAll('/tmp/seen')
        .then(String, () => '');
    await expect.poll(read).toBe('503 sandbox_suspended');
  });

  it('the model server gets no key of a guest', () => {
    expect(upstream.requests.length).toBeGreaterThan(0);
    for (const { headers } of upstream.requests) {
      expect(headers).not.toHaveProperty('authorization');
      expect(headers).not.toHaveProperty('x-api-key');
    }
  });
});

/** Claude Code and Codex, unmodified, each as a program of its own at a bridge with a scripted upstream. */
import type { ServerResponse } from 'node:http';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';
import { type AgentRun, type CodingAgents, codingAgents, runClaude, runCodex } from '../support/coding-agents.ts';
import { type ScriptedCall, sendAnswer } from '../support/completions.ts';
import { delta, type Recorded, sendJson, startEvents } from '../support/mock-upstream.ts';
import { type Forwarder, forwardTo } from '../support/model-clients.ts';
import { requiresFullRun } from '../support/requires.ts';

let fixture: BridgeFixture;
let forwarder: Forwarder;
let spent: BridgeFixture;
let spentForwarder: Forwarder;
let attempts = 0;

beforeAll(async () => {
  fixture = await bridgeFixture({ policy: { defaultModel: 'm1' } });
  forwarder = await forwardTo(fixture.socketPath);
  fixture.mock.answer(answer);
});
beforeEach(async () => {
  attempts = 0;
  spent = await bridgeFixture({ policy: { defaultModel: 'm1', budget: { requests: 1 } } });
  spentForwarder = await forwardTo(spent.socketPath);
  spent.mock.answer(answer);
});
afterEach(async () => {
  await spentForwarder[Symbol.asyncDispose]();
  await spent.close();
});
afterAll(async () => {
  await forwarder[Symbol.asyncDispose]();
  await fixture.close();
});

interface WireRequest {
  readonly stream?: boolean;
  readonly messages: { readonly role: string; readonly content: unknown }[];
  readonly tools?: { readonly function: { readonly name: string } }[];
}

/** More than a limit that a test sets. */
const LONG_TOKENS = 1000;
const COMMAND = 'echo made > made.txt && cat made.txt';

/** By the name of the tool: what each agent's own tool for commands expects. */
const SHELLS: Readonly<Record<string, unknown>> = {
  Bash: { command: COMMAND, description: 'Makes a file' },
  exec_command: { cmd: COMMAND },
};

const wordsOf = (content: unknown): string => (typeof content === 'string' ? content : JSON.stringify(content));

/** What the scripted model says to the last message. */
function answer({ body }: Recorded, response: ServerResponse): void {
  const { messages, tools = [] } = JSON.parse(body) as WireRequest;
  const last = messages.at(-1);
  const said = wordsOf(last?.content);
  const isLoaded = messages
    .slice(-2)
    .some(({ content }) => wordsOf(content).includes('The tool NotebookEdit is available'));
  attempts += 1;
  if (isLoaded) {
    const isOffered = tools.some((one) => one.function.name === 'NotebookEdit');
    sendAnswer(body, response, { text: isOffered ? 'loaded' : 'not offered' });
  } else if (last?.role === 'tool') {
    sendAnswer(body, response, { text: `The command said: ${said}` });
  } else if (said.includes('make a file')) {
    const found = tools.find(({ function: { name } }) => name in SHELLS)?.function.name ?? '';
    const usage = { prompt_tokens: attempts === 1 ? LONG_TOKENS : 1, completion_tokens: 1 };
    sendAnswer(body, response, { text: 'I run it.', calls: [call(found, SHELLS[found])], usage });
  } else if (said.includes('load a tool')) {
    const wanted = { query: 'select:NotebookEdit' };
    sendAnswer(body, response, { calls: [call('ToolSearch', wanted)] });
  } else if (said.includes('busy twice') && attempts <= 2) {
    sendJson(response, 503, { error: { message: 'busy' } }, { 'retry-after-ms': '1' });
  } else if (said.includes('always wrong')) {
    sendJson(response, 400, { error: { message: 'wrong, says the server' } });
  } else if (said.includes('breaks once') && attempts === 1) {
    startEvents(response);
    response.end(delta('half'));
  } else sendAnswer(body, response, { reasoning: 'let me see', text: 'hällo 🙂' });
}

const call = (name: string, args: unknown): ScriptedCall => ({ id: 'call_1', name, arguments: JSON.stringify(args) });

/** How an agent prints its events, and the parts of the answer in them. */
interface Style {
  readonly run: typeof runClaude;
  readonly events: readonly string[];
  readonly parts: (lines: readonly Record<string, unknown>[]) => unknown[];
}

const STYLES: readonly (readonly [string, Style])[] = [
  [
    'Claude Code',
    {
      run: runClaude,
      events: ['--output-format', 'stream-json', '--verbose', '--include-partial-messages'],
      parts: (lines) =>
        lines
          .map(({ event }) => (event as { delta?: { text?: string } } | undefined)?.delta?.text)
          .filter((text) => text !== undefined),
    },
  ],
  [
    'Codex',
    {
      run: runCodex,
      events: ['--json'],
      // It prints whole messages, though it reads a stream.
      parts: (lines) =>
        lines
          .filter(({ type }) => type === 'item.completed')
          .map(({ item }) => item as { type: string; text: string })
          .filter(({ type }) => type === 'agent_message')
          .map(({ text }) => text),
    },
  ],
];

for (const [name, { run, events, parts }] of STYLES) {
  requiresFullRun('generators', codingAgents).describe(name, (agents: CodingAgents) => {
    const ask = (prompt: string, args: readonly string[] = []): Promise<AgentRun> =>
      run(agents, forwarder.port, prompt, args);

    it('answers a prompt', async () => {
      const ended = await ask('say hello');
      expect(ended).toMatchObject({ status: 0, stdout: expect.stringContaining('hällo 🙂') });
    });

    it('reads a stream', async () => {
      const { stdout } = await ask('say hello', events);
      const lines = stdout.trim().split('\n');
      expect(parts(lines.map((line) => JSON.parse(line))).join('')).toBe('hällo 🙂');
      const asked = fixture.mock.requests.map(({ body }) => JSON.parse(body) as WireRequest);
      expect(asked.at(-1)?.stream).toBe(true);
    });

    it('runs a command of the model, and sends what it printed', async () => {
      const ended = await ask('make a file');
      expect(ended).toMatchObject({ status: 0, made: 'made\n' });
      expect(ended.stdout).toMatch(/The command said: .*made/s);
      expect(attempts).toBe(2);
    });

    it('tries again when the server is busy, and after a stream that broke', async () => {
      expect(await ask('busy twice')).toMatchObject({ status: 0 });
      expect(attempts).toBe(3);
      attempts = 0;
      const ended = await ask('breaks once');
      expect(ended).toMatchObject({ status: 0, stdout: expect.stringContaining('hällo 🙂') });
    });

    it('shows what the server refused', async () => {
      const { status, stdout, stderr } = await ask('always wrong');
      expect(status).toBe(1);
      expect(stdout + stderr).toContain('wrong, says the server');
    });

    it('shows at once that the budget is spent', async () => {
      const { status, stdout, stderr } = await run(agents, spentForwarder.port, 'make a file');
      expect(status).toBe(1);
      // Codex has words of its own for it.
      expect(stdout + stderr).toMatch(/The budget of this sandbox|Quota exceeded/);
      expect(spent.mock.requests).toHaveLength(1);
    });
  });
}

requiresFullRun('generators', codingAgents).describe('Claude Code alone', (agents) => {
  it('loads a tool whose schema was not sent before', async () => {
    const ended = await runClaude(agents, forwarder.port, 'load a tool');
    expect(ended).toMatchObject({ status: 0, stdout: 'loaded\n' });
    expect(attempts).toBe(2);
  });
});

requiresFullRun('generators', codingAgents).describe('Codex alone', (agents) => {
  it('shortens its conversation by itself', async () => {
    const limit = ['-c', `model_auto_compact_token_limit=${LONG_TOKENS / 2}`];
    const before = fixture.mock.requests.length;
    const ended = await runCodex(agents, forwarder.port, 'make a file', limit);
    expect(ended).toMatchObject({ status: 0, made: 'made\n' });
    const asked = fixture.mock.requests.slice(before).map(({ body }) => JSON.parse(body));
    const last = asked.map(({ messages }: WireRequest) => wordsOf(messages.at(-1)?.content));
    expect(last.filter((words) => /COMPACTION/i.test(words))).toHaveLength(1);
  });
});

/**
 * Agent frameworks, in their publishers' style (`examples/e2b`), and the first programs in the READMEs of E2B's
 * clients, all unmodified, against a daemon with real VMs.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readyMadeRecipe } from '../../src/artifacts/ready-made.ts';
import { AGENT, TemplateNames } from '../../src/host/runtime/named-templates/names.ts';
import { ROOT } from '../support/cli.ts';
import { useDaemonHome, vmmsIn } from '../support/daemon.ts';
import { type E2bClient, nodeClient, pythonClient, runWithClient } from '../support/e2b-clients.ts';
import { buildAgent } from '../support/e2b-matrix.ts';
import { modelEnv, scriptAgent } from '../support/scripted-agent-model.ts';

const EXAMPLES = join(ROOT, 'examples/e2b');
/** Turns off the frameworks' reports to their publishers. */
const SILENT = { OPENAI_AGENTS_DISABLE_TRACING: '1', LANGSMITH_TRACING: 'false' };

const home = useDaemonHome();
let server: { readonly url: string; readonly apiKey: string };
let scratch: string;

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'nv-readme-'));
  const { url, apiKeyPath } = await home.serve('-o', 'json', '--pool', '0', '--port', '0').ready();
  server = { url: url ?? '', apiKey: (await readFile(apiKeyPath ?? '', 'utf8')).trim() };
  await buildAgent(server);
});
afterAll(async () => await rm(scratch, { recursive: true, force: true }));

/** A client; without one the test fails. */
function there(client: E2bClient | string): E2bClient {
  if (typeof client === 'string') throw new Error(client);
  return client;
}

async function outputOf(client: E2bClient, script: string): Promise<string> {
  const env = { ...modelEnv(home.upstream), ...SILENT };
  const { code, stdout, stderr } = await runWithClient(client, server, script, [], env);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout;
}

describe('frameworks run unchanged, with tools that work in a sandbox', () => {
  it('LangChain: an agent runs Python programs, and sees how they fail', async () => {
    const run = (code: string) => ({ name: 'run_python', arguments: { code } });
    const returned = scriptAgent(home.upstream, [
      run('1 / 0'),
      run('import os\nprint(os.environ["E2B_SANDBOX"], sum(range(100)))'),
    ]);
    const answer = await outputOf(there(pythonClient('newest')), join(EXAMPLES, 'langchain_agent.py'));
    expect(returned[0]).toContain('ZeroDivisionError: division by zero');
    expect(returned[1]).toBe('true 4950\n');
    expect(answer).toBe('The sandbox says: true 4950\n\n');
  });

  it('Vercel’s AI SDK: a tool runs commands, and the model sees how they end', async () => {
    const bash = (command: string) => ({ name: 'bash', arguments: { command } });
    const returned = scriptAgent(home.upstream, [
      bash('echo "print(sum(all(n % d for d in range(2, n)) for n in range(2, 100)))" > primes.py'),
      bash('echo no >&2; exit 3'),
      bash('echo $E2B_SANDBOX; python3 primes.py'),
    ]);
    const answer = await outputOf(there(nodeClient('newest')), join(EXAMPLES, 'ai-sdk-agent.mjs'));
    expect(returned.map((one) => JSON.parse(one) as unknown)).toEqual([
      { exitCode: 0, stdout: '', stderr: '' },
      { exitCode: 3, stdout: '', stderr: 'no\n' },
      { exitCode: 0, stdout: 'true\n25\n', stderr: '' },
    ]);
    expect(answer).toContain('true\\n25');
  });

  it('OpenAI’s Agents SDK: an agent works on the files of its workspace', async () => {
    const run = (cmd: string) => ({ name: 'exec_command', arguments: { cmd } });
    const returned = scriptAgent(home.upstream, [
      run('pwd; cat orders.csv'),
      run("awk -F, '/apples/ { n += $2 } END { print n }' orders.csv > apples; cat apples; exit 4"),
    ]);
    const answer = await outputOf(there(pythonClient('newest')), join(EXAMPLES, 'openai_agents.py'));
    expect(returned[0]).toContain('/workspace\napples,120\npears,80\napples,22\n');
    expect(returned[1]).toMatch(/exited with code 4\n[\s\S]*\n142\n/);
    expect(answer).toContain('142');
  });
});

/** A program of the client without the code interpreter. */
const PLAIN = /(?:from e2b import|from 'e2b')[\s\S]*Sandbox\.create\(\)/;

/** Text of a README → its programs without a placeholder for a key. */
const programsOf = (text: string, fence: RegExp): string[] =>
  [...text.matchAll(fence)]
    .map(([, program = '']) => program)
    .filter((program) => PLAIN.test(program) && !program.includes('***'));

/** The output that a program's comments promise. */
const promised = (program: string): string =>
  [...program.matchAll(/(?:print|log)\(.*\) +(?:#|\/\/) (?:outputs )?(.+)/g)].map(([, text = '']) => text).join('\n');

async function pythonReadmes({ packages }: E2bClient): Promise<string[]> {
  const found = (await readdir(packages)).filter((name) => /^e2b-.*\.dist-info$/.test(name));
  return await Promise.all(found.map((name) => readFile(join(packages, name, 'METADATA'), 'utf8')));
}

const nodeReadmes = async ({ packages }: E2bClient): Promise<string[]> => [
  await readFile(join(packages, 'e2b/README.md'), 'utf8'),
];

describe('the programs in the READMEs of E2B’s clients print what they promise', () => {
  // The default template takes minutes to build. Here it is `agent`.
  beforeAll(async () => {
    const agent = await home.says('template', 'inspect', AGENT, '-o', 'json');
    const { rootImageDigest } = JSON.parse(agent) as { readonly rootImageDigest: string };
    const names = new TemplateNames(home.dir);
    const { spec } = await names.get(AGENT);
    const recipe = await readyMadeRecipe('base', rootImageDigest);
    await names.setReadyMade('base', spec, async () => undefined, recipe);
  });

  const runAll = async (client: E2bClient, readmes: string[], fence: RegExp, suffix: string) => {
    const programs = readmes.flatMap((text) => programsOf(text, fence));
    expect(programs).toHaveLength(1);
    for (const [index, program] of programs.entries()) {
      const script = join(scratch, `${index}${suffix}`);
      await writeFile(script, program);
      expect((await outputOf(client, script)).trim()).toBe(promised(program));
    }
  };

  it('JavaScript', async () => {
    const client = there(nodeClient('newest'));
    await runAll(client, await nodeReadmes(client), /```ts\n([\s\S]*?)```/g, '.mjs');
  });

  it('Python', async () => {
    const client = there(pythonClient('newest'));
    await runAll(client, await pythonReadmes(client), /```py\n([\s\S]*?)```/g, '.py');
  });
});

it('only sandboxes that the programs did not kill are left', async () => {
  const { length } = await vmmsIn(home.runDir);
  // The README's JavaScript program never kills its own, which ends by its timeout.
  expect(length).toBeLessThanOrEqual(1);
});

/**
 * Claude Code and Codex as programs, pinned by the lock file in `test/fixtures/model-clients/coding-agents`, 800 MB
 * that only full runs install. Each run has its own home and working directory, and the settings of
 * `examples/coding-agents`.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lockedNode, orReason } from './locked-packages.ts';
import { MODEL_CLIENTS_DIR, sandboxVariables } from './model-clients.ts';

const EXAMPLE = join(import.meta.dirname, '../../examples/coding-agents');
const RUN_MS_MAX = 180_000;

export interface CodingAgents {
  /** Entry points of the packages, for Node.js. */
  readonly claude: string;
  readonly codex: string;
}

export interface AgentRun {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Content of `made.txt` in the working directory, or null. */
  readonly made: string | null;
}

/** The programs, or the reason why there are none. */
export const codingAgents = (): CodingAgents | string =>
  orReason(() => {
    const lock = join(MODEL_CLIENTS_DIR, 'coding-agents');
    const packages = join(lockedNode('coding-agents', lock), 'node_modules');
    return {
      claude: join(packages, '@anthropic-ai/claude-code/cli-wrapper.cjs'),
      codex: join(packages, '@openai/codex/bin/codex.js'),
    };
  });

/** Variables that the example's Dockerfile sets, for Claude Code. */
async function exampleVariables(): Promise<Record<string, string>> {
  const dockerfile = await readFile(join(EXAMPLE, 'Dockerfile'), 'utf8');
  const lines = dockerfile.split('\n').filter((line) => line.startsWith('ENV '));
  return Object.fromEntries(
    lines.flatMap((line) =>
      line
        .slice('ENV '.length)
        .split(' ')
        .map((one) => one.split('=', 2) as [string, string]),
    ),
  );
}

/** Runs Claude Code for one prompt. @param port of the bridge; @param args additional arguments */
export const runClaude = (
  { claude }: CodingAgents,
  port: number,
  prompt: string,
  args: readonly string[] = [],
): Promise<AgentRun> =>
  // Claude Code refuses to skip its questions as root, and the tests may run as root.
  runAgent(port, { IS_SANDBOX: '1' }, async () => [claude, '-p', prompt, '--dangerously-skip-permissions', ...args]);

/** Runs Codex for one prompt. @param port of the bridge; @param args additional arguments */
export const runCodex = (
  { codex }: CodingAgents,
  port: number,
  prompt: string,
  args: readonly string[] = [],
): Promise<AgentRun> =>
  runAgent(port, {}, async (home) => {
    const settings = await readFile(join(EXAMPLE, 'codex.toml'), 'utf8');
    await mkdir(join(home, '.codex'));
    const here = settings.replace(':11434', `:${port}`);
    await writeFile(join(home, '.codex/config.toml'), here);
    return [codex, 'exec', '--skip-git-repo-check', ...args, prompt];
  });

async function runAgent(
  port: number,
  more: Readonly<Record<string, string>>,
  prepare: (home: string) => Promise<readonly string[]>,
): Promise<AgentRun> {
  const home = await mkdtemp(join(tmpdir(), 'nv-coding-agent-'));
  try {
    const cwd = join(home, 'work');
    await mkdir(cwd);
    const argv = await prepare(home);
    const env = { ...sandboxVariables(port), ...(await exampleVariables()), ...more, HOME: home, LANG: 'C.UTF-8' };
    const ended = await run(argv, { env, cwd });
    const made = await readFile(join(cwd, 'made.txt'), 'utf8').catch(() => null);
    return { ...ended, made };
  } finally {
    await rm(home, { recursive: true, force: true });
  }
}

function run(
  argv: readonly string[],
  options: { readonly env: NodeJS.ProcessEnv; readonly cwd: string },
): Promise<Omit<AgentRun, 'made'>> {
  return new Promise((resolve, reject) => {
    const limits = { ...options, timeout: RUN_MS_MAX };
    const child = execFile(process.execPath, argv, limits, (error, stdout, stderr) => {
      if (error !== null && typeof error.code !== 'number') reject(error);
      else resolve({ status: Number(error?.code ?? 0), stdout, stderr });
    });
    // Both read more of the prompt from stdin.
    child.stdin?.end();
  });
}

/** The examples as a user runs them: LangChain in the guest, the model on the host, from the command line. */
import { describe, expect, it } from 'vitest';
import { cli } from '../support/cli.ts';

const run = (example: string, ...args: string[]) =>
  cli(['run', ...args, `examples/${example}.py`]).result;

describe('examples', () => {
  it('agent.py: a tool with NumPy, an answer from the model, no network card', async () => {
    const { status, stdout, stderr } = await run('agent', '--timings');
    expect(stderr).toContain('first token');
    expect(stdout).toContain('no network card');
    expect(stdout).toMatch(/^tool {5}estimate_pi\(.*"pi": 3\.1/m);
    expect(stdout).toMatch(/^agent {4}\S/m);
    expect(status).toBe(0);
  });

  it.each(['chat', 'embeddings', 'tool_loop'])('%s.py ends well', async (example) => {
    const { status, stdout, stderr } = await run(example);
    expect(stderr).toBe('');
    expect(stdout.length).toBeGreaterThan(100);
    expect(status).toBe(0);
  });
});

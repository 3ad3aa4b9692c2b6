/** The examples as a user runs them: LangChain in the guest, the model on the host, from the command line. */
import { describe, expect, it } from 'vitest';
import { cli } from '../support/cli.ts';

const run = (example: string, ...args: string[]) => cli(['run', ...args, `examples/${example}.py`]).result;

describe('examples', () => {
  it('agent.py: a tool with NumPy, an answer from the model, no network card', async () => {
    const { status, stdout, stderr } = await run('agent', '--timings');
    expect(stderr).toContain('first token');
    expect(stdout).toContain('no network card');
    expect(stdout).toMatch(/^tool {5}estimate_pi\(.*"pi": 3\.1/m);
    expect(stdout).toMatch(/^agent {4}\S/m);
    expect(status).toBe(0);
  });

  it('chat.py: each question is answered by the model, and the answer’s tokens are counted', async () => {
    const { status, stdout, stderr } = await run('chat');
    expect(stderr).toBe('');
    const turns = stdout.trimEnd().split('\n\n');
    expect(turns).toHaveLength(3);
    for (const turn of turns) {
      expect(turn).toMatch(/^user {6}\S.*\n\S{8} +\S.*\n(.*\n)* {10}[1-9]\d* tokens, first after \d/);
    }
    expect(turns[1]).toMatch(/capital of France is Paris/);
    expect(status).toBe(0);
  });

  it('embeddings.py: the closest sentence to each query is about it', async () => {
    const { status, stdout, stderr } = await run('embeddings');
    expect(stderr).toBe('');
    expect(stdout).toMatch(/^12 sentences, \d{3,} numbers each, by \S+$/m);
    const closest = new Map(
      [...stdout.matchAll(/^(\S.*)\n +(-?\d\.\d{3}) {2}(.*)$/gm)].map(([, query = '', , sentence = '']) => [
        query,
        sentence,
      ]),
    );
    expect(closest.get('pets and animals')).toMatch(/puppy|cat/);
    expect(closest.get('news about money')).toMatch(/Stock|bank/);
    expect(closest.get('outer space')).toMatch(/telescope|Astronauts/);
    expect(closest.size).toBe(6);
    expect(status).toBe(0);
  });

  it('tool_loop.py: each task calls its tool with the arguments of the task, and answers', async () => {
    const { status, stdout, stderr } = await run('tool_loop');
    expect(stderr).toBe('');
    expect(stdout).toContain('multiply({"a": 12, "b": 7}) = {"product": 84.0}');
    expect(stdout).toMatch(/estimate_pi\(\{"points": 1000000\}\) = \{"pi": 3\.14\d+\}/);
    expect(stdout).toContain('seconds({"hours": 3}) = {"seconds": 10800.0}');
    expect(stdout.match(/^ {2}answer {2}\S/gm)).toHaveLength(3);
    expect(stdout).toMatch(/^ {2}answer .*84/m);
    expect(status).toBe(0);
  });
});

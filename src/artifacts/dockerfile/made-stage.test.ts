import { describe, expect, it } from 'vitest';
import { EMPTY_CONFIG, evaluateStage, NOTHING_INHERITED, type Step } from './evaluate.ts';
import { stepKey } from './keys.ts';
import { type MadeBase, type MadeStep, madeStage } from './made-stage.ts';
import type { Stage } from './stages.ts';

const AGENT: MadeBase = { source: { kind: 'agent' }, kind: 'environment', user: '' };
const IMAGE: MadeBase = { source: { kind: 'image', reference: 'a' }, kind: 'image', user: '' };
const archive = { sha256: 'a'.repeat(64) };

function evaluated(base: MadeBase, steps: readonly MadeStep[], nonce = 'once') {
  const graph = madeStage(base, steps, () => nonce);
  const [stage] = graph.stages as [Stage];
  const config = { ...EMPTY_CONFIG, user: base.user || 'nobody', env: { PATH: '/own' } };
  const inherited = NOTHING_INHERITED;
  return evaluateStage({ graph, stage, base: config, inherited, given: {}, platform: {} });
}
const run = (command: string, user: string | null = null): MadeStep => ({ kind: 'run', isFresh: false, command, user });
const copy = (source: string, target: string): MadeStep => ({
  kind: 'copy',
  isFresh: false,
  archive,
  source,
  target,
  owner: null,
  mode: null,
});
const programs = (steps: readonly Step[]) =>
  steps.flatMap((step) =>
    step.kind === 'run' ? [{ line: step.line, user: step.user, command: step.argv.at(-1) }] : [],
  );

describe('madeStage', () => {
  it('runs commands as `user` in its home, or as the user of the step, whatever they contain', () => {
    const commands = ['["a", "b"]', '#!/bin/sh', 'cat <<EOF\n$A\nEOF', 'echo \\\n  "x" # y'];
    const { steps, config } = evaluated(AGENT, [
      ...commands.map((command) => run(command)),
      run('whoami', 'root'),
      run('id'),
    ]);
    expect(programs(steps)).toEqual([
      { line: 1, user: 'user', command: commands[0] },
      { line: 2, user: 'user', command: ` ${commands[1]}` },
      { line: 3, user: 'user', command: commands[2] },
      { line: 4, user: 'user', command: commands[3] },
      { line: 5, user: 'root', command: 'whoami' },
      { line: 6, user: 'user', command: 'id' },
    ]);
    expect(config).toMatchObject({ user: 'user', workdir: '/home/user' });
  });

  it('creates the user of a foreign image as root, before the first step', () => {
    const { steps, config } = evaluated(IMAGE, [run('id')]);
    const all = programs(steps);
    expect(all.map(({ line, user }) => [line, user])).toEqual([
      [0, 'root'],
      [0, 'root'],
      [1, 'user'],
    ]);
    expect(all[0]?.command).toContain("name='user'");
    expect(config.env).toEqual({ PATH: '/own' });
  });

  it('continues as the user of the previous template', () => {
    const { steps, config } = evaluated({ ...AGENT, kind: 'template', user: 'worker' }, [
      run('id'),
      run('id', 'root'),
      run('id'),
    ]);
    expect(programs(steps).map(({ user }) => user)).toEqual(['worker', 'root', 'worker']);
    expect(config.user).toBe('worker');
  });

  it('replaces variables in values, and keeps everything else unchanged', () => {
    const { config } = evaluated(AGENT, [
      {
        kind: 'env',
        isFresh: false,
        pairs: [
          ['A', 'x "y" \\z\n$'],
          ['B', ' two  words '],
          ['C', '$B|$A'],
        ],
      },
    ]);
    expect(config.env).toMatchObject({ A: 'x "y" \\z\n$', B: ' two  words ', C: ' two  words |x "y" \\z\n$' });
  });

  it('copies, as the current user, the archive’s files from the first wildcard on', () => {
    const { steps } = evaluated(AGENT, [
      { kind: 'user', isFresh: false, user: '1000', isSudoer: false },
      copy('./a b/c.txt', 'to'),
      copy('src/**/*.{ts,js}', '/dst'),
      copy('*', '/all'),
      { ...copy('x', '/x'), owner: 'root', mode: '0755' } as MadeStep,
    ]);
    const copies = steps.flatMap((step) => (step.kind === 'copy' ? [step] : []));
    expect(copies).toMatchObject([
      { sources: ['a b/c.txt'], target: '/home/user/to', owner: '1000', mode: null },
      { sources: ['src'], target: '/dst/', owner: '1000' },
      { sources: ['.'], target: '/all/' },
      { sources: ['x'], owner: 'root', mode: 0o755, archive: archive.sha256 },
    ]);
  });

  it('gives a fresh step, and all later ones, keys that no earlier build has', () => {
    const keys = (nonce: string, isFresh: boolean): readonly string[] => {
      const { steps } = evaluated(AGENT, [run('a'), { ...run('b'), isFresh } as MadeStep], nonce);
      const all: string[] = [];
      for (const step of steps) all.push(stepKey(all.at(-1) ?? '', step, []));
      return all;
    };
    expect(keys('one', false)).toEqual(keys('two', false));
    const [one, two] = [keys('one', true), keys('two', true)];
    expect(one[0]).toBe(two[0]);
    expect(one.at(-1)).not.toBe(two.at(-1));
  });
});

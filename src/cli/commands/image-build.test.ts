import { stripVTControlCharacters } from 'node:util';
import { describe, expect, it } from 'vitest';
import { testCli } from '../../../test/support/test-cli.ts';
import type { BuildEvent } from '../../sandbox/contract/contents.ts';
import { BuildView } from './image-build.ts';

const step = (number: number, cached: boolean): BuildEvent => ({
  ...{ kind: 'step', number, stage: 'app', index: number, count: 2, line: number },
  ...{ text: `RUN ${number}`, cached },
});
const output: BuildEvent = { ...{ kind: 'output', number: 2, stream: 'stdout' }, chunk: Buffer.from('much\n') };
const warning: BuildEvent = { kind: 'warning', text: 'VOLUME has no effect' };

function shown(kind: 'plain' | 'quiet' | 'steps', events: readonly BuildEvent[]): string[] {
  const { cli, stderr } = testCli();
  const view = new BuildView(cli, kind);
  for (const event of events) view.show(event);
  return stripVTControlCharacters(stderr()).split('\n').slice(0, -1);
}

describe('BuildView', () => {
  const events: readonly BuildEvent[] = [
    ...[warning, step(1, true), step(2, false), output],
    ...[{ kind: 'done', number: 2, durationMs: 5 } as const, { kind: 'pack', stage: 'app' } as const],
  ];
  const head = 'warning: VOLUME has no effect';

  it('plain: everything', () => {
    expect(shown('plain', events)).toEqual([
      ...[head, '#1 [app 1/2] RUN 1 cached', '#2 [app 2/2] RUN 2', '#2 much', '#2 done 5 ms'],
      'pack app',
    ]);
  });

  it('steps: those that run, after the warnings, without output', () => {
    const lines = [head, '#2 [app 2/2] RUN 2', '#2 done 5 ms', 'pack app'];
    expect(shown('steps', events)).toEqual(lines);
  });

  it('steps: nothing if all is cached; quiet: warnings alone', () => {
    expect(shown('steps', [warning, step(1, true)])).toEqual([]);
    expect(shown('quiet', events)).toEqual([head]);
  });
});

import { describe, expect, it } from 'vitest';
import type { TemplateStep } from '../../../sandbox/contract/template-step.ts';
import { E2B_LIMITS } from '../limits.ts';
import { BuildLog } from './build-log.ts';

const STEPS: readonly TemplateStep[] = [
  { kind: 'run', isFresh: false, command: 'make', user: null },
  { kind: 'env', isFresh: false, pairs: [['TOKEN', 'hush']] },
];
const ALL = 1_000_000;
const output = (text: string) => ({ kind: 'output', step: 1, stream: 'stdout', chunk: Buffer.from(text) }) as const;

function logOf(): { log: BuildLog; messages: () => readonly string[] } {
  const log = new BuildLog(() => 0, STEPS);
  return { log, messages: () => log.read(0, ALL).map(({ message }) => message) };
}

describe('BuildLog', () => {
  it('shows each step once, and only the names of variables', () => {
    const { log, messages } = logOf();
    for (const step of [0, 1, 1, 2]) log.event({ kind: 'step', step, isCached: step === 2 });
    expect(messages()).toEqual(['[builder 1/2] RUN make', 'CACHED [builder 2/2] ENV TOKEN']);
  });

  it('shows the final text of an overwritten line, and a last line without its end', () => {
    const { log, messages } = logOf();
    log.event(output('10%\r90%\r'));
    log.event(output('\ndone\u001b]0;x'));
    log.flush();
    expect(messages()).toEqual(['[builder 1/2] [stdout]: 90%', '[builder 1/2] [stdout]: done?]0;x']);
  });

  it('is read from an offset', () => {
    const { log } = logOf();
    log.event(output('a\nb\nc\n'));
    expect(log.read(1, 1)).toMatchObject([{ message: '[builder 1/2] [stdout]: b', step: '1' }]);
    expect(log.read(3, 9)).toEqual([]);
  });

  it('ends with a note about omitted entries; a failure is still reported', () => {
    const { log, messages } = logOf();
    for (let n = 0; n < E2B_LIMITS.logEntriesMax + 10; n += 1) log.event(output('x\n'));
    log.event(output(`${'y'.repeat(100_000)}\n`));
    log.add('error', 'it failed');
    const all = messages();
    expect(all.slice(-2)).toEqual(['the log is full: what follows is left out', 'it failed']);
    expect(all.length).toBe(E2B_LIMITS.logEntriesMax + 2);
  });

  it('bounds a line that never ends', () => {
    const { log, messages } = logOf();
    for (let n = 0; n < 100; n += 1) log.event(output('z'.repeat(10_000)));
    log.flush();
    expect(messages()[0]?.length).toBeLessThanOrEqual(E2B_LIMITS.logLineCharactersMax);
  });
});

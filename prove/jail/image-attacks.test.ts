import { expect, it } from 'vitest';
import { Notes } from '../proof.ts';
import { type Attack, noteAttacks } from './image-attacks.ts';

const attack = (what: string, seen: string): Attack => ({ what, how: 'its device', seen });

it('noteAttacks: holds only if each guest was refused each time, and each control worked', () => {
  const judge = (...attacks: Attack[]) => {
    const notes = new Notes();
    noteAttacks(notes, 2, attacks);
    return notes.proof('image');
  };
  const controls = [attack('control: write', 'WRITTEN'), attack('control: write', 'WRITTEN')];
  const good = judge(...controls, attack('write', 'refused'), attack('write', 'refused'));
  expect(good.holds).toBe(true);
  expect(good.tried.map(({ what, seen }) => `${what}: ${seen}`)).toEqual([
    'control: write: WRITTEN 2 times',
    'guest root: write: refused 2 times',
  ]);
  for (const seen of ['WRITTEN', 'TypeError: no'])
    expect(judge(...controls, attack('write', 'refused'), attack('write', seen)).holds).toBe(false);
  expect(judge(...controls, attack('write', 'refused')).holds, 'one guest did not try').toBe(false);
  const failed = attack('control: write', 'refused');
  expect(judge(failed, failed).holds).toBe(false);
});

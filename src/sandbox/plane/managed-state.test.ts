import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { endWithoutVm } from '../contract/ending.ts';
import type { Supervisor } from '../vm/supervisor.ts';
import {
  isOver,
  MANAGED_TRANSITIONS,
  type ManagedState,
  managedDiagram,
  pausedToOf,
  type StateKind,
  snapshotIdOf,
  statusOf,
  supervisorOf,
  transition,
} from './managed-state.ts';

const supervisor = {} as Supervisor;
const snapshotId = 'a'.repeat(20);
const end = endWithoutVm('stopped', '', 0);
const STATES: { readonly [K in StateKind]: Extract<ManagedState, { kind: K }> } = {
  running: { kind: 'running', supervisor },
  saving: { kind: 'saving', supervisor, wasPaused: false },
  saved: { kind: 'saved', supervisor, wasPaused: true, snapshotId, isDiskOnly: true },
  paused: { kind: 'paused', supervisor },
  suspended: { kind: 'suspended', snapshotId, isDiskOnly: true, isClaimed: false },
  resuming: { kind: 'resuming', supervisor },
  restoring: { kind: 'restoring', snapshotId, isDiskOnly: false, isClaimed: true },
  ending: { kind: 'ending', supervisor, snapshotId: null, isDiskOnly: false, isClaimed: false, pausedTo: null },
  ended: { kind: 'ended', end },
};
const EVENTS = new Set(Object.values(MANAGED_TRANSITIONS).flatMap((row) => Object.keys(row)));
const apply = transition as (from: ManagedState, event: string, data: object) => ManagedState;

describe('managed state', () => {
  it('transition: legal pairs lead to the state of the table, with the given data', () => {
    for (const [kind, row] of Object.entries(MANAGED_TRANSITIONS)) {
      for (const [event, to] of Object.entries(row)) {
        const data = STATES[to as StateKind];
        expect(apply(STATES[kind as StateKind], event, data)).toEqual(data);
      }
    }
  });

  it('transition: illegal pairs are refused', () => {
    const refused = Object.keys(MANAGED_TRANSITIONS).flatMap((kind) =>
      [...EVENTS]
        .filter((event) => !(event in MANAGED_TRANSITIONS[kind as StateKind]))
        .map((event) => [kind as StateKind, event] as const),
    );
    expect(refused.length).toBeGreaterThan(80);
    for (const [kind, event] of refused) {
      const act = (): unknown => apply(STATES[kind], event, {});
      expect(act).toThrow(`"${event}" is not possible while ${kind}`);
    }
  });

  it('transition: illegal pairs and wrong data do not compile', () => {
    const { running, ended, suspended } = STATES;
    // @ts-expect-error an ended sandbox has no events
    expect(() => transition(ended, 'resume', { supervisor })).toThrow();
    // @ts-expect-error a suspended sandbox has no VM to pause
    expect(() => transition(suspended, 'pause', { supervisor })).toThrow();
    // @ts-expect-error a saving sandbox remembers whether it was paused
    expect(transition(running, 'save', { supervisor })).toMatchObject({ kind: 'saving' });
  });

  it('end is possible from every live state, and never undone', () => {
    for (const state of Object.values(STATES)) {
      if (!isOver(state)) expect(MANAGED_TRANSITIONS[state.kind]).toHaveProperty('end', 'ending');
    }
    const after = Object.values(MANAGED_TRANSITIONS.ending);
    expect(new Set(after)).toEqual(new Set(['ending', 'ended']));
    expect(MANAGED_TRANSITIONS.ended).toEqual({});
  });

  it('a sandbox is in a VM, on disk, or both while a save is committed', () => {
    const places = Object.values(STATES).map((state) => [
      state.kind,
      supervisorOf(state) !== undefined,
      snapshotIdOf(state) !== null,
    ]);
    expect(places).toEqual([
      ['running', true, false],
      ['saving', true, false],
      ['saved', true, true],
      ['paused', true, false],
      ['suspended', false, true],
      ['resuming', true, false],
      ['restoring', false, true],
      ['ending', true, false],
      ['ended', false, false],
    ]);
  });

  it('statusOf, pausedToOf: the owner’s view of each state', () => {
    const seen = Object.values(STATES).map((state) => [statusOf(state), pausedToOf(state)]);
    expect(seen).toEqual([
      ['running', null],
      ['saving', null],
      ['saving', 'memory'],
      ['paused', 'memory'],
      ['paused', 'disk-only'],
      ['resuming', 'memory'],
      ['resuming', 'disk'],
      ['ending', null],
      ['ended', null],
    ]);
  });

  it('managedDiagram: docs/lifecycle.md contains the diagram of the table', () => {
    const doc = readFileSync(join(import.meta.dirname, '../../../docs/lifecycle.md'), 'utf8');
    expect(doc).toContain(managedDiagram());
  });
});

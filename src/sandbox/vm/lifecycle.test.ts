import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  isFinal,
  lifecycleDiagram,
  type SandboxEvent,
  type SandboxState,
  TRANSITIONS,
  transition,
} from './lifecycle.ts';

const STATES = Object.keys(TRANSITIONS) as SandboxState[];
const EVENTS = [...new Set(STATES.flatMap((state) => Object.keys(TRANSITIONS[state])))] as SandboxEvent[];

describe('lifecycle', () => {
  it('transition: every pair is either in the table or refused with {from, event}', () => {
    for (const from of STATES) {
      for (const event of EVENTS) {
        const to = TRANSITIONS[from][event];
        const expected = to === undefined ? { ok: false, from, event } : { ok: true, state: to };
        expect(transition(from, event)).toEqual(expected);
      }
    }
  });

  it('transition: from every state that is not final, a stop or failure leads to the end', () => {
    for (const from of STATES.filter((state) => !isFinal(state))) {
      const reachable = new Set<SandboxState>([from]);
      for (const state of reachable) {
        for (const to of Object.values(TRANSITIONS[state])) reachable.add(to);
      }
      expect([...reachable]).toContain('gone');
    }
  });

  it('transition: nothing leaves a final state', () => {
    expect(STATES.filter(isFinal)).toEqual(['gone', 'failed']);
  });

  it('lifecycleDiagram: docs/lifecycle.md contains the diagram of the table', () => {
    const doc = readFileSync(join(import.meta.dirname, '../../../docs/lifecycle.md'), 'utf8');
    expect(doc).toContain(lifecycleDiagram());
  });
});

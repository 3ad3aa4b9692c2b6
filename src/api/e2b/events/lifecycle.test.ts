import { describe, expect, it } from 'vitest';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { eventsOf } from './lifecycle.ts';

/** The part of a sandbox that its events depend on. */
const info = (status: SandboxInfo['status'], more: Partial<SandboxInfo> = {}): SandboxInfo =>
  ({
    id: 'a',
    status,
    metadata: {},
    annotations: {},
    template: 'agent',
    network: null,
    cpus: 2,
    memoryMib: 512,
    endsAtMs: 1000,
    end: null,
    ...more,
  }) as SandboxInfo;

/** Event types of these changes, one list per change; `saved` marks the end of a save. */
function typesOf(...changes: readonly SandboxInfo[]): string[][] {
  let known: Parameters<typeof eventsOf>[0];
  return changes.map((change, index) => {
    const { next, events, savedSinceMs } = eventsOf(known, change, index);
    known = next;
    const types = events.map(({ type }) => type.replace('sandbox.lifecycle.', ''));
    return savedSinceMs === null ? types : [...types, 'saved'];
  });
}

describe('eventsOf', () => {
  it('has events for a start, a pause, a resume and an end', () => {
    const changes = ['starting', 'running', 'saving', 'paused', 'resuming', 'running', 'ending', 'ended'];
    expect(typesOf(...changes.map((status) => info(status as SandboxInfo['status'])))).toEqual([
      [],
      ['created'],
      [],
      ['paused'],
      [],
      ['resumed'],
      [],
      ['killed'],
    ]);
  });

  it('has none for a sandbox that never became ready', () => {
    expect(typesOf(info('starting'), info('ended'))).toEqual([[], []]);
  });

  it('treats a save that continues as a possible snapshot', () => {
    expect(typesOf(info('running'), info('saving'), info('saving'), info('running'))).toEqual([
      ['created'],
      [],
      [],
      ['saved'],
    ]);
  });

  it('treats a pause in memory that is moved to disk as one pause', () => {
    expect(typesOf(info('running'), info('paused'), info('saving'), info('paused'))).toEqual([
      ['created'],
      ['paused'],
      [],
      ['saved'],
    ]);
  });

  it('has updates for a new timeout and new metadata, but not for a repetition', () => {
    expect(
      typesOf(
        info('running', { endsAtMs: null }),
        info('running'),
        info('running', { endsAtMs: 2000 }),
        info('running', { endsAtMs: 2000, metadata: { a: 'b' } }),
        info('running', { endsAtMs: 2000, metadata: { a: 'b' } }),
      ),
    ).toEqual([['created'], [], ['updated'], ['updated'], []]);
  });
});

import { describe, expect, it } from 'vitest';
import { Connection, type ConnectionEvent, type ConnectionState, TRANSITIONS } from './connection.ts';
import { ChunkPool } from './tx-buffer.ts';

const WINDOW = 64 * 1024;
const make = (): Connection => new Connection(80, 5000, false, WINDOW, new ChunkPool());

/** Shortest way into each state. */
const PATHS: Record<ConnectionState, ConnectionEvent[]> = {
  delayed: [],
  requested: ['admit-host'],
  open: ['admit-guest'],
  'guest-ended': ['admit-guest', 'guest-end-send'],
  'host-ended': ['admit-guest', 'host-end-send'],
  closing: ['admit-guest', 'host-gone'],
  draining: ['admit-guest', 'guest-end-both'],
  gone: ['fail'],
};

describe('Connection.transition', () => {
  it.each(Object.entries(PATHS))('reaches %s', (state, events) => {
    const connection = make();
    for (const event of events) expect(connection.transition(event)).toBe(true);
    expect(connection.state).toBe(state);
  });

  it('refuses events outside the table, and changes nothing', () => {
    const events = new Set(Object.values(TRANSITIONS).flatMap((row) => Object.keys(row)));
    for (const [state, path] of Object.entries(PATHS))
      for (const event of events as Set<ConnectionEvent>) {
        if (TRANSITIONS[state as ConnectionState][event] !== undefined) continue;
        const connection = make();
        for (const step of path) connection.transition(step);
        expect(connection.transition(event)).toBe(false);
        expect(connection.state).toBe(state);
      }
  });

  it('a failure ends every state but the last', () => {
    for (const [state, row] of Object.entries(TRANSITIONS)) if (state !== 'gone') expect(row.fail).toBe('gone');
    expect(TRANSITIONS.gone).toEqual({});
  });
});

describe('Connection credit', () => {
  it('is the announced window minus the bytes in flight', () => {
    const connection = make();
    expect(connection.credit).toBe(0);
    connection.updateCredit(1000, 0);
    connection.noteSent(400);
    expect(connection.credit).toBe(600);
    connection.updateCredit(1000, 300);
    expect(connection.credit).toBe(900);
  });

  it('is zero, not huge, when the window shrinks below the bytes in flight (CVE-2026-23069)', () => {
    const connection = make();
    connection.updateCredit(1000, 0);
    connection.noteSent(800);
    connection.updateCredit(100, 0);
    expect(connection.credit).toBe(0);
    connection.updateCredit(100, 750);
    expect(connection.credit).toBe(50);
  });

  it('ignores a count of bytes never sent, and an outdated count', () => {
    const connection = make();
    connection.updateCredit(1000, 0);
    connection.noteSent(500);
    connection.updateCredit(1000, 501);
    expect(connection.credit).toBe(500);
    connection.updateCredit(1000, 400);
    connection.updateCredit(1000, 200);
    expect(connection.credit).toBe(900);
  });

  it('counts modulo 2³²', () => {
    const connection = make();
    connection.updateCredit(0xffffffff, 0);
    connection.noteSent(0xfffffff0);
    connection.updateCredit(100, 0xfffffff0);
    connection.noteSent(0x20);
    expect(connection.credit).toBe(100 - 0x20);
    connection.updateCredit(100, 0x10);
    expect(connection.credit).toBe(100);
  });
});

describe('Connection.noteForwarded', () => {
  it('asks for an update when the guest does not know of half of the smaller window', () => {
    const connection = make();
    connection.updateCredit(WINDOW * 4, 0);
    expect(connection.noteForwarded(WINDOW / 2 - 1)).toBe(false);
    expect(connection.noteForwarded(1)).toBe(true);
    connection.noteAdvertised();
    // A guest with a small receive buffer sends no more ahead than that (Linux caps it).
    connection.updateCredit(1000, 0);
    expect(connection.noteForwarded(499)).toBe(false);
    expect(connection.noteForwarded(1)).toBe(true);
  });

  it('hasRoomFor: counts held bytes and bytes on their way', () => {
    const connection = make();
    connection.held.push(new Uint8Array(1000));
    expect(connection.hasRoomFor(WINDOW - 3000, 2000)).toBe(true);
    expect(connection.hasRoomFor(WINDOW - 2999, 2000)).toBe(false);
  });
});

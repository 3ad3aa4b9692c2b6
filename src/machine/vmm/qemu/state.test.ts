import { describe, expect, it, vi } from 'vitest';
import { MIB } from '../../../base/units.ts';
import type { QmpClient } from './qmp.ts';
import { configurationOf, saveDevices } from './state.ts';

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
};
const short = (text: string): Buffer => Buffer.concat([Buffer.of(text.length), Buffer.from(text)]);

const MACHINE = 'pc-i440fx-7.2';
const HEAD = Buffer.concat([Buffer.from('QEVM'), u32(3), Buffer.of(7), u32(MACHINE.length)]);
const CAPABILITIES = Buffer.concat([
  Buffer.of(5),
  short('configuration/capabilities'),
  u32(1),
  u32(1),
  short('x-ignore-shared'),
]);
const PAGE_BITS = Buffer.concat([Buffer.of(5), short('configuration/target-page-bits'), u32(1), u32(12)]);

describe('configurationOf', () => {
  const whole = Buffer.concat([HEAD, Buffer.from(MACHINE), CAPABILITIES, PAGE_BITS]);

  it.each([1, 4])('ends before the first section, of type %d', (type) => {
    expect(configurationOf(Buffer.concat([whole, Buffer.of(type, 0, 0)]))).toEqual(whole);
  });

  it.each([
    ['a section of another type', Buffer.concat([whole, Buffer.of(9)])],
    ['no configuration', Buffer.concat([Buffer.from('QEVM'), u32(3), Buffer.of(1)])],
    ['an unknown part', Buffer.concat([whole, Buffer.of(5), short('configuration/new'), u32(1)])],
    ...Array.from({ length: whole.length }, (_, end): [string, Buffer] => [
      `its end at byte ${end}`,
      whole.subarray(0, end),
    ]),
  ])('refuses a state with %s', (_name, state) => {
    expect(() => configurationOf(state)).toThrow('QEMU did not finish "migrate-incoming"');
  });

  it('refuses lengths and counts beyond the state', () => {
    for (let at = 8; at < whole.length; at += 1) {
      const state = Buffer.concat([whole, Buffer.of(4)]);
      state[at] = 0xff;
      try {
        expect(configurationOf(state).length).toBeLessThanOrEqual(state.length);
      } catch (error) {
        expect(error).toMatchObject({ code: 'vmm_command_failed' });
      }
    }
  });

  it('does not retain the rest', () => {
    const kept = configurationOf(Buffer.concat([whole, Buffer.alloc(MIB, 4)]));
    expect(kept.buffer.byteLength).toBe(kept.length);
  });
});

describe('saveDevices', () => {
  it('releases the descriptor of a QEMU that refuses', async () => {
    const release = vi.fn();
    const qmp = {
      addFd: async () => ({ path: '/dev/fdset/0', release }),
      execute: async (command: string) => {
        if (command !== 'stop') throw new Error('refused');
      },
    } as unknown as QmpClient;
    await expect(saveDevices(qmp, Buffer.alloc(0))).rejects.toThrow('refused');
    expect(release).toHaveBeenCalledOnce();
  });
});

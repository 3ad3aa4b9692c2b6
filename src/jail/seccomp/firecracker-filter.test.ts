import { describe, expect, it } from 'vitest';
import { compileProfile } from './compile.ts';
import { filterFormatOf, firecrackerFilter } from './firecracker-filter.ts';
import { type Profile, parseProfile } from './profile.ts';

const thread = (entries: readonly object[] = []) => ({
  default_action: 'allow',
  filter_action: 'trap',
  filter: entries,
});
const profile = (threads: object): Profile => parseProfile(JSON.stringify(threads));
const three = { vmm: thread(), api: thread(), vcpu: thread([{ syscall: 'open' }]) };

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const words = (name: keyof typeof three): string => {
  const filter = profile(three).get(name);
  return filter === undefined ? '' : hex(compileProfile(filter, 'x86_64').program);
};
const u64 = (value: number): string => `${value.toString(16).padStart(2, '0')}${'0'.repeat(14)}`;

describe('firecrackerFilter', () => {
  it('bincode: puts 64-bit lengths first', () => {
    // Its own reader, the crate of that name, took this file.
    const file = hex(firecrackerFilter(profile(three), 'bincode', 'x86_64'));
    expect(file).toBe(
      [
        u64(3),
        u64(3),
        hex(Buffer.from('api')),
        u64(6),
        words('api'),
        u64(4),
        hex(Buffer.from('vcpu')),
        u64(9),
        words('vcpu'),
        u64(3),
        hex(Buffer.from('vmm')),
        u64(6),
        words('vmm'),
      ].join(''),
    );
  });

  it('bitcode: groups lengths, names and counts before all instructions', () => {
    const file = hex(firecrackerFilter(profile(three), 'bitcode', 'x86_64'));
    const programs = words('api') + words('vcpu') + words('vmm');
    expect(file).toBe(
      ['03', '00030403', hex(Buffer.from('apivcpuvmm')), '00060906', '00', programs].join(''),
    );
  });

  it('bitcode: puts counts of 255 and more in a group of their own', () => {
    const many = Array.from({ length: 300 }, (_, val) => ({
      syscall: 'ioctl',
      args: [{ index: 1, type: 'dword', op: 'eq', val }],
    }));
    const long = profile({ ...three, api: thread(many) });
    const api = long.get('api');
    const count = api === undefined ? 0 : compileProfile(api, 'x86_64').instructions;
    expect(count).toBeGreaterThanOrEqual(300);
    const wide = Buffer.alloc(8);
    wide.writeUInt32LE(count);
    const file = hex(firecrackerFilter(long, 'bitcode', 'x86_64'));
    expect(file.slice(30, 30 + 8 + 2 + 16 + 2)).toBe(`00ff090600${hex(wide)}00`);
  });

  it('refuses other threads and missing ones', () => {
    const refusal = (threads: object) => () =>
      firecrackerFilter(profile(threads), 'bincode', 'x86_64');
    expect(refusal({ ...three, qemu: thread() })).toThrow('no thread "qemu"');
    expect(refusal({ vmm: thread(), api: thread() })).toThrow('thread "vcpu"');
  });

  it('knows the encoding by the version', () => {
    const format = (versions: string[]) => versions.map(filterFormatOf);
    expect(format(['1.7.0', '1.12.1', '1.14.4'])).toEqual(['bincode', 'bincode', 'bincode']);
    expect(format(['1.15.0', '1.16.1', '1.17.0-dev', '2.0.0'])).toEqual(Array(4).fill('bitcode'));
  });
});

import { describe, expect, it } from 'vitest';
import { compileProfile } from './compile.ts';
import { firecrackerFilter } from './firecracker-filter.ts';
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

describe('firecrackerFilter', () => {
  it('firecrackerFilter: groups lengths, names and counts before all instructions', () => {
    const file = hex(firecrackerFilter(profile(three), 'x86_64'));
    const programs = words('api') + words('vcpu') + words('vmm');
    expect(file).toBe(['03', '00030403', hex(Buffer.from('apivcpuvmm')), '00060906', '00', programs].join(''));
  });

  it('firecrackerFilter: puts counts of 255 and more in a group of their own', () => {
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
    const file = hex(firecrackerFilter(long, 'x86_64'));
    expect(file.slice(30, 30 + 8 + 2 + 16 + 2)).toBe(`00ff090600${hex(wide)}00`);
  });

  it('firecrackerFilter: refuses unknown and missing threads', () => {
    const refusal = (threads: object) => () => firecrackerFilter(profile(threads), 'x86_64');
    expect(refusal({ ...three, qemu: thread() })).toThrow('no thread "qemu"');
    expect(refusal({ vmm: thread(), api: thread() })).toThrow('thread "vcpu"');
  });
});

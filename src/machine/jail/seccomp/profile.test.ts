import { describe, expect, it } from 'vitest';
import { JailError } from '../errors.ts';
import { compileProfile } from './compile.ts';
import { parseProfile } from './profile.ts';
import { redundantRules } from './profile-check.ts';

const profile = (filter: string, rest = ''): string =>
  `{"vmm": {"default_action": "trap", "filter_action": "allow", "filter": [${filter}]${rest}}}`;
const ioctl = (...args: string[]): string => `{"syscall": "ioctl", "args": [${args.join(', ')}]}`;
const eq = (val: string, type = 'dword'): string => `{"index": 1, "type": "${type}", "op": "eq", "val": ${val}}`;

/** Parses and compiles: general errors come first, then those of a processor. */
function refusal(text: string): string {
  try {
    for (const filter of parseProfile(text).values()) compileProfile(filter, 'x86_64');
  } catch (error) {
    if (!(error instanceof JailError) || error.code !== 'profile_invalid') throw error;
    return error.message;
  }
  return 'taken';
}

describe('parseProfile', () => {
  it("reads Firecracker's schema, 64-bit values to the last bit", () => {
    const [vmm] = parseProfile(
      profile(
        `{"syscall": "read", "comment": "the event loop"},
         {"syscall": "ioctl", "args": [
            {"index": 1, "type": "qword", "op": {"masked_eq": 18446744073709551615}, "val": 9007199254740993}]}`,
      ),
    ).values();
    expect(vmm).toEqual({
      name: 'vmm',
      defaultAction: 'trap',
      filterAction: 'allow',
      rules: [
        { syscall: 'read', conditions: [], action: undefined, comment: 'the event loop' },
        {
          syscall: 'ioctl',
          conditions: [{ index: 1, bits: 64, operator: 'masked_eq', value: 9007199254740993n, mask: 2n ** 64n - 1n }],
          action: undefined,
          comment: undefined,
        },
      ],
    });
  });

  it('refuses an invalid profile, and says where', () => {
    const cases: [text: string, message: string][] = [
      ['{', 'invalid JSON in a seccomp profile'],
      ['[]', 'expected record'],
      ['{}', 'names no thread'],
      ['{"../x": {}}', '../x'],
      [profile('{"syscall": "read", "argz": []}'), 'vmm.filter.0: Unrecognized key: "argz"'],
      [profile('{"syscall": "read", "args": []}'), 'vmm.filter.0.args: Too small'],
      [profile('', ', "defualt_action": 1'), 'Unrecognized key: "defualt_action"'],
      [profile('{"syscall": "read", "action": "kill"}'), 'vmm.filter.0.action: expected allow, log'],
      [profile('{"syscall": "read", "action": {"errno": 4096}}'), 'vmm.filter.0.action'],
      [profile(ioctl('{"index": 6, "type": "dword", "op": "eq", "val": 1}')), 'args.0.index'],
      [profile(ioctl(eq('-1'))), 'args.0.val: expected a whole number'],
      [profile(ioctl(eq('1.5'))), 'args.0.val: expected a whole number'],
      [profile(ioctl(eq('"1"'))), 'args.0.val: expected a whole number'],
      [profile(ioctl(eq('18446744073709551616', 'qword'))), 'args.0.val: more than 64 bits'],
      [profile(`${'{"syscall": "read"},'.repeat(10_000)}{"syscall": "read"}`), 'vmm.filter: Too big'],
    ];
    for (const [text, message] of cases) expect(refusal(text)).toContain(message);
  });

  it('refuses a duplicate key, the first of which would silently be lost', () => {
    const twice = profile('').replace('{"vmm"', '{"vmm": {"default_action": "trap"}, "vmm"');
    expect(refusal(twice)).toContain('duplicate key "vmm"');
    expect(refusal(profile('{"syscall": "read", "sys\\u0063all": "write"}'))).toContain('"syscall"');
    const comment = '{"syscall": "read", "comment": "\\"syscall\\": {[ twice"}';
    expect(refusal(profile(`${comment}, ${comment}`))).toBe('taken');
  });
});

describe('checkRules', () => {
  it('refuses unknown calls and contradictory rules', () => {
    const mask = (mask: number, val: number): string =>
      ioctl(`{"index": 1, "type": "dword", "op": {"masked_eq": ${mask}}, "val": ${val}}`);
    const compare = (op: string, val: string, type = 'dword'): string =>
      ioctl(`{"index": 1, "type": "${type}", "op": "${op}", "val": ${val}}`);
    const cases: [filter: string, message: string][] = [
      ['{"syscall": "raed"}', 'no system call "raed" on x86_64'],
      ['{"syscall": "renameat3"}', 'no system call "renameat3"'],
      [ioctl(eq('1'), eq('2')), 'argument 1: two conditions on one argument'],
      [ioctl(eq('4294967296')), 'a dword has 32 bits'],
      [mask(1, 2), 'never matches'],
      [mask(0, 0), 'checks no bit'],
      [compare('lt', '0'), 'no value is lt 0'],
      [compare('gt', '4294967295'), 'no value is gt'],
      [compare('gt', '18446744073709551615', 'qword'), 'no value is gt'],
      [compare('ge', '0'), 'every value is ge 0'],
      [compare('le', '4294967295'), 'every value is le'],
      ['{"syscall": "read"}, {"syscall": "read", "action": "log"}', 'filter[1] (read)'],
      [`{"syscall": "ioctl", "action": "log"}, ${ioctl(eq('1'))}`, 'filter[1] (ioctl)'],
    ];
    for (const [filter, message] of cases) expect(refusal(profile(filter))).toContain(message);
    const same = profile('').replace('"trap"', '"allow"');
    expect(refusal(same)).toContain('are both allow');
    // A narrower rule first is no contradiction.
    expect(refusal(profile(`${ioctl(eq('1'))}, {"syscall": "ioctl", "action": "log"}`))).toBe('taken');
  });

  it('names redundant entries', () => {
    const [filter] = parseProfile(
      profile(`${ioctl(eq('1'))}, ${ioctl(eq('2'))}, {"syscall": "ioctl"}, {"syscall": "read"}`),
    ).values();
    expect(filter && redundantRules(filter)).toEqual([
      'filter[0] (ioctl): already covered by filter[2]',
      'filter[1] (ioctl): already covered by filter[2]',
    ]);
  });
});

/**
 * Any text as a profile: read, or its typed error; what is read compiles, or is refused with a typed error, and
 * its program decides each call as the profile means it. Any text as a trace: calls, or none.
 */
import fc from 'fast-check';
import { JailError } from '../../src/machine/jail/errors.ts';
import { compileProfile, returnWord } from '../../src/machine/jail/seccomp/compile.ts';
import { OPERATORS, type Profile, parseProfile } from '../../src/machine/jail/seccomp/profile.ts';
import { AUDIT_ARCH } from '../../src/machine/jail/seccomp/syscalls.ts';
import { interpret } from '../../tools/seccomp/interpret.ts';
import { proposeProfile } from '../../tools/seccomp/learn.ts';
import { tracedCalls } from '../../tools/seccomp/strace.ts';
import { decide } from '../support/seccomp-reference.ts';
import { must, structured } from './target.ts';

const some = (...values: readonly unknown[]): fc.Arbitrary<unknown> =>
  fc.oneof({ weight: 200, arbitrary: fc.constantFrom(...values) }, fc.jsonValue({ maxDepth: 1 }));
const action = some('allow', 'log', 'trap', 'kill_thread', 'kill_process', { errno: 1 }, { trace: 2 });
const value = some(...[0, 1, 1, 2, 3, 0xffff_ffff, 2 ** 32], -1);
const condition = fc.record({
  index: some(0, 1, 2, 5),
  type: some('dword', 'qword'),
  op: fc.oneof(some(...OPERATORS), fc.record({ masked_eq: some(0xff, 3) })),
  val: value,
});
const entry = fc.record(
  {
    syscall: some('read', 'read', 'write', 'ioctl', 'ioctl', 'clone', 'openat'),
    args: fc.uniqueArray(condition, { minLength: 1, maxLength: 2, selector: ({ index }) => index }),
    action,
    comment: some('why'),
  },
  { requiredKeys: ['syscall'] },
);
const profile = fc.dictionary(
  fc.constantFrom('vmm', 'vmm', 'api', 'vcpu', 'qemu', '__proto__'),
  fc.record({ default_action: action, filter_action: action, filter: fc.array(entry, { maxLength: 5 }) }),
  { maxKeys: 2 },
);
const text = fc.oneof(
  { weight: 6, arbitrary: profile.map((each) => JSON.stringify(each)) },
  { weight: 1, arbitrary: fc.json() },
  { weight: 1, arbitrary: fc.string() },
);
const trace = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        ...['7 execve(0x1, 0x2, 0x3) = 0', '7 clone(0x10000, 0) = 0x8', '8 read(0x1 <unfinished ...>'],
        ...['8 <... read resumed>) = 0', '7 seccomp(0x1, 0, 0x7) = 0', '8 ioctl(0x3, 0xae80, 0) = 0'],
        '8 prctl(PR_SET_NAME, "a\\"b") = 0',
        '9 +++ killed by SIGSYS +++',
      ),
      fc.string(),
    ),
  )
  .map((lines) => lines.join('\n'));

export const seccomp = structured('seccomp', fc.tuple(text, trace), ([json, traced]) => {
  const read = typed(() => parseProfile(json));
  if (read !== undefined) decidesAsItMeans(read);
  for (const since of ['exec', 'filter'] as const) {
    const proposed = proposeProfile(tracedCalls([traced], since), () => 'vmm');
    if (proposed['vmm'] !== undefined) parseProfile(JSON.stringify(proposed));
  }
});

function decidesAsItMeans(profile: Profile): void {
  for (const filter of profile.values()) {
    const compiled = typed(() => compileProfile(filter, 'x86_64'));
    if (compiled === undefined) continue;
    for (const number of [0, 1, 16, 56, 57, 257]) {
      for (const argument of [0n, 1n, 0xffff_ffffn, 2n ** 32n]) {
        const call = { arch: AUDIT_ARCH.x86_64, number, args: Array(6).fill(argument) };
        const { word } = interpret(compiled.program, call);
        const meant = returnWord(decide(filter, 'x86_64', call)) >>> 0;
        must(word === meant, `call ${number}: ${word} instead of ${meant}`);
      }
    }
  }
}

function typed<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    must(error instanceof JailError, `not a JailError: ${String(error)}`);
    return undefined;
  }
}

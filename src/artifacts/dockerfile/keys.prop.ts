import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { RunStep, Step } from './evaluate.ts';
import { baseKey, stepKey } from './keys.ts';

const BEFORE = baseKey('sha256:a');
const place = { line: fc.nat(), text: fc.string() };
const names = fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 });
const source = fc.oneof(
  fc.record({ kind: fc.constant('stage' as const), index: fc.nat(3) }),
  fc.record({ kind: fc.constant('image' as const), reference: fc.string() }),
);
const owner = { mode: fc.nat(0o777), uid: fc.nat(9), gid: fc.nat(9) };
const mount: fc.Arbitrary<RunStep['mounts'][number]> = fc.oneof(
  fc.record({
    type: fc.constant('cache' as const),
    id: fc.string(),
    target: fc.string(),
    readonly: fc.boolean(),
    ...owner,
  }),
  fc.record({
    type: fc.constant('secret' as const),
    id: fc.string(),
    target: fc.option(fc.string()),
    variable: fc.option(fc.string()),
    required: fc.boolean(),
    ...owner,
  }),
  fc.record({ type: fc.constant('tmpfs' as const), target: fc.string() }),
  fc.record({ type: fc.constant('bind' as const), from: source, source: fc.string(), target: fc.string() }),
);
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    kind: fc.constant('run' as const),
    argv: fc.array(fc.string(), { maxLength: 3 }),
    program: fc.option(fc.string()),
    env: names,
    user: fc.string(),
    workdir: fc.string(),
    mounts: fc.array(mount, { maxLength: 2 }),
    network: fc.boolean(),
    ...place,
  }),
  fc.record({
    kind: fc.constant('copy' as const),
    from: fc.option(source),
    sources: fc.array(fc.string(), { maxLength: 2 }),
    inline: fc.array(fc.record({ name: fc.string(), content: fc.string() }), { maxLength: 2 }),
    target: fc.string(),
    owner: fc.option(fc.string()),
    mode: fc.option(fc.nat(0o777)),
    extracts: fc.boolean(),
    ...place,
  }),
  fc.record({ kind: fc.constant('workdir' as const), path: fc.string(), ...place }),
);
const files = fc.array(fc.string(), { maxLength: 2 });

function changes(value: unknown): unknown[] {
  if (Array.isArray(value)) {
    const own = value.flatMap((one, at) => changes(one).map((other) => value.with(at, other)));
    return [...own, [...value, 'more'], ...(value.length > 0 ? [value.slice(1)] : [])];
  }
  if (typeof value === 'object' && value !== null) {
    return Object.entries(value).flatMap(([name, one]) => changes(one).map((other) => ({ ...value, [name]: other })));
  }
  if (typeof value === 'boolean') return [!value];
  if (typeof value === 'number') return [value + 1, `${value}`];
  return value === null ? ['', 0] : [`${String(value)}x`, null];
}

describe('stepKey', () => {
  it('depends on each part of a step, and on everything before it', () => {
    fc.assert(
      fc.property(step, files, (one, read) => {
        const { line: _line, text: _text, ...own } = one;
        const key = stepKey(BEFORE, one, read);
        const others = [
          stepKey(baseKey('sha256:b'), one, read),
          stepKey(baseKey(null), one, read),
          ...changes(own).map((other) => stepKey(BEFORE, { ...one, ...(other as Step) }, read)),
          ...changes(read).map((other) => stepKey(BEFORE, one, other as string[])),
        ];
        expect(others).not.toContain(key);
      }),
    );
  });

  it('depends neither on the step’s place in the file nor on the order of variables', () => {
    fc.assert(
      fc.property(step, files, fc.nat(), (one, read, line) => {
        const moved = { ...one, line, text: 'other' };
        if (moved.kind === 'run') {
          Object.assign(moved, { env: Object.fromEntries(Object.entries(moved.env).toReversed()) });
        }
        expect(stepKey(BEFORE, moved, read)).toBe(stepKey(BEFORE, one, read));
      }),
    );
  });
});

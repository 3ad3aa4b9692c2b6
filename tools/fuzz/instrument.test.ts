import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { beforeEach, describe, expect, it } from 'vitest';
import { instrument } from './instrument.ts';
import * as probe from './probe.ts';
import { branches, closeness, reached, recent, resetProbe, STEPS } from './probe.ts';

const SRC = join(import.meta.dirname, '../../src');
const IMPORT = /^import \{[^}]*\} from "probe";/;

/** Runs code that returns a value, instrumented and not. */
function both(body: string): readonly unknown[] {
  const code = `const f = () => { ${body} }; f`;
  const { code: instrumented } = instrument(code, 'probe');
  const names = ['__nvBranches', '__nvSame', '__nvOther', '__nvCase'];
  const values = [probe.branches, probe.isSame, probe.isOther, probe.caseOf];
  const text = instrumented.replace(IMPORT, '').replace(/; f$/, '; return f();');
  const plain = code.replace(/; f$/, '; return f();');
  return [new Function(plain)(), new Function(...names, text)(...values)];
}

beforeEach(() => {
  branches.fill(0);
  resetProbe();
});

describe('instrument', () => {
  it.each([
    'let s = ""; for (const x of [1, 2, 3]) if (x === 2) s += "b"; else if ((x) !== (3)) s += "a"; return s;',
    'if (1 == 2) if (2 == 3) return 1; else return 2; return 3;',
    'const o = { a: null, b: (x) => ({ x }) }; return [o.a?.b ?? "d", o.b(1).x, (1, 2) === 2 ? "t" : "f"];',
    'let n = 0; do n += 1; while (n !== 5); while (n > 0) n -= 2; for (;;) { n += 1; if (n === 4) break; } return n;',
    'const g = (k) => { switch (k) { case "a": case "b": return 1; case 7: { return 2; } default: return 3; } }; return [..."abc", 7].map(g);',
    'try { throw new Error("é"); } catch { return "caught" && ((a, b) => a || b)(0, "ü"); }',
    'const a = "a"; return a === "a" && !(a !== "a") || (a === "b") === false;',
    'return typeof 1 === "number" && undefined === void 0 && null == undefined;',
  ])('the code behaves as before: %s', (body) => {
    const [before, after] = both(body);
    expect(after).toEqual(before);
  });

  it('every module of the product still parses, with unchanged lines', async () => {
    const { globSync } = await import('node:fs');
    const paths = globSync('**/*.ts', { cwd: SRC }).filter((path) => !/\.(test|prop)\.ts$/.test(path));
    for (const path of paths) {
      const code = readFileSync(join(SRC, path), 'utf8');
      const result = instrument(code, pathToFileURL(path).href);
      expect(() => instrument(result.code, 'probe'), path).not.toThrow();
      expect(result.code.split('\n').length, path).toBe(code.split('\n').length);
    }
  });

  it('counts each branch that runs', () => {
    both('const f = (x) => x > 1 ? 1 : 2; f(1); f(2); f(3); return 0;');
    expect([...branches.subarray(0, 4)].sort()).toEqual([1, 1, 2, 3]);
  });

  it('lists the words and numbers of the code', () => {
    const { literals } = instrument('f("chunked", 0xfe0d, 3, "two words")', 'probe');
    expect(literals).toEqual(['chunked', 0xfe0d]);
  });
});

describe('probe', () => {
  it('notes how near a comparison came, and the wanted value', () => {
    probe.isSame(2, 0x100, 0x101);
    probe.isOther(3, 'abxy', 'abcd');
    expect(reached).toEqual([2 * STEPS + 31, 3 * STEPS + 2]);
    expect(recent.wanted).toContain(0x101);
    expect(recent.wanted).toContain('abcd');
    resetProbe();
    expect(closeness.includes(1)).toBe(false);
  });
});

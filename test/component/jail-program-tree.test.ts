/** The copy of the VMM's program that jails are made of. */
import { existsSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { prepareProgramTree } from '../../src/jail/program-tree.ts';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-jail-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

describe('prepareProgramTree', () => {
  it('prepareProgramTree: made once, anew when a file has changed; what nobody used for long goes', async () => {
    const base = join(dir, 'base');
    const program = join(dir, 'program');
    writeFileSync(program, 'one');
    const first = await prepareProgramTree(base, [program]);
    expect((await prepareProgramTree(base, [program])).dir).toBe(first.dir);
    expect(readFileSync(join(first.dir, program), 'utf8')).toBe('one');
    writeFileSync(program, 'another');
    const second = await prepareProgramTree(base, [program]);
    expect(readFileSync(join(second.dir, program), 'utf8')).toBe('another');
    expect(existsSync(first.dir)).toBe(true);
    utimesSync(join(first.dir, '..'), 0, 0);
    await prepareProgramTree(base, [program]);
    expect(existsSync(first.dir)).toBe(false);
    expect(existsSync(second.dir)).toBe(true);
  });
});

import { expect, it } from 'vitest';
import { stageTable } from './stage.ts';

const STAGE = { dir: '/run/stage', pointsDir: '/run/stage/points' };
const NO_TREE = { dir: '/', entries: [] };

/** Decodes a field as mount(8) does. */
const decoded = (field: string): string =>
  field.replaceAll(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));

it.each(['/a b', '/a#b\\040c', '/no\u00a0break', '/em\u2003space', '/\ufeffmark'])(
  'stageTable: %j stays one field with its own name',
  (path) => {
    const table = stageTable(STAGE, NO_TREE, { files: [{ path, access: 'read' }] });
    const lines = table.trimEnd().split('\n');
    expect(lines).toHaveLength(2);
    const fields = (lines[1] ?? '').split(/[ \t]+/);
    expect(fields.map(decoded)).toEqual([path, '/run/stage/f0', 'none', 'bind', '0', '0']);
  },
);

import { expect, it } from 'vitest';
import type { FileEntry } from '../../../machine/guest/guest.ts';
import { entryView } from './entry.ts';

const entry = (modifiedMs: number): FileEntry => ({
  name: 'a',
  path: '/a',
  type: 'file',
  bytes: 1,
  mode: 0o644,
  owner: 'user',
  group: 'user',
  modifiedMs,
  symlinkTarget: null,
});

it.each([
  [0, '1970-01-01T00:00:00.000Z'],
  [Number.MAX_SAFE_INTEGER, '9999-12-31T23:59:59.999Z'],
  [-Number.MAX_SAFE_INTEGER, '0001-01-01T00:00:00.000Z'],
])('entryView: shows a file’s time %d in a form that clients can read', (ms, time) => {
  expect(entryView(entry(ms))).toMatchObject({ modifiedTime: time });
});

import { expect, it } from 'vitest';
import { type CacheFile, chooseEvictions } from './files.ts';

const file = (kind: CacheFile['kind'], hex: string, usedAtMs: number): CacheFile => ({
  kind,
  hex,
  usedAtMs,
  path: `/${hex}`,
  bytes: 10,
  ownBytes: 10,
});

it('chooseEvictions: blobs and layers before environments, each by last use, none in use', () => {
  const files = [
    file('environments', 'e1', 1),
    file('environments', 'e2', 2),
    file('layers', 'l3', 3),
    file('blobs', 'b5', 5),
    file('blobs', 'b4', 4),
  ];
  const chosen = (quota: number, keep: string[] = []): string[] =>
    chooseEvictions(files, quota, new Set(keep)).map(({ hex }) => hex);
  expect(chosen(50)).toEqual([]);
  expect(chosen(49)).toEqual(['l3']);
  expect(chosen(10)).toEqual(['l3', 'b4', 'b5', 'e1']);
  expect(chosen(0, ['e1'])).toEqual(['l3', 'b4', 'b5', 'e2']);
});

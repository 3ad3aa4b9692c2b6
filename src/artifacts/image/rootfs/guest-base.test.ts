import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ImageError } from '../errors.ts';
import { guestBaseRecipe, parseDpkgStatus, parseLock } from './guest-base.ts';

const imageDir = join(import.meta.dirname, '../../../../image');
const HASH = `--hash=sha256:${'a'.repeat(64)}`;

describe('parseLock', () => {
  it('reads names and versions', () => {
    expect([...parseLock(`# comment\nnumpy==2.4.6 ${HASH}\n`)]).toEqual([['numpy', '2.4.6']]);
  });
  it.each(['numpy==2.4.6', 'numpy>=2 --hash=sha256:00', `https://x.test/a.whl ${HASH}`])(
    'refuses a line without a digest or a pinned version: %s',
    (line) => {
      expect(() => parseLock(`${line}\n`)).toThrow(ImageError);
    },
  );
  it('finds all packages of image/requirements.in in the lock file (R-G-7)', () => {
    const locked = parseLock(readFileSync(join(imageDir, 'requirements.lock'), 'utf8'));
    const asked = readFileSync(join(imageDir, 'requirements.in'), 'utf8')
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'));
    expect(asked.filter((name) => !locked.has(name))).toEqual([]);
    expect(asked.length).toBeGreaterThan(0);
  });
  it('reads the model’s lock file too', () => {
    expect(parseLock(readFileSync(join(imageDir, 'model.lock'), 'utf8')).size).toBe(1);
  });
});

describe('guestBaseRecipe', () => {
  it('has the same key for the same lock file, and another for another', () => {
    const key = (wheels: string, version: string): string => {
      const debian = { bash: { version, sha256: '' } };
      return guestBaseRecipe({ wheelsPath: '/x', wheels, debian }).key;
    };
    const one = key(`a==1 ${HASH}`, '1');
    expect(key(`a==1 ${HASH}`, '1')).toBe(one);
    expect(key(`a==2 ${HASH}`, '1')).not.toBe(one);
    expect(key(`a==1 ${HASH}`, '2')).not.toBe(one);
  });
});

describe('parseDpkgStatus', () => {
  it('lists installed packages, but not removed ones', () => {
    const status = `Package: tini
Status: install ok installed
Version: 0.19.0-1

Package: gone
Status: deinstall ok config-files
Version: 1
`;
    expect([...parseDpkgStatus(status)]).toEqual([['tini', '0.19.0-1']]);
  });
});

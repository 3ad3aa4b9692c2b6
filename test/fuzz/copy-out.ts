/** `cp` from a guest that lies about its files: nothing is written outside the target, and nothing is followed. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import fc from 'fast-check';
import { copyOut } from '../../src/artifacts/transfer/copy-out.ts';
import { CopyError } from '../../src/artifacts/transfer/transfer.ts';
import { errorCode } from '../../src/base/errors.ts';
import type { FileEntry, Guest } from '../../src/machine/guest/link.ts';
import { must, structured } from './target.ts';

const name = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom('a', 'b', 'out', 'link', 'sub', 'kept') },
  { weight: 2, arbitrary: fc.constantFrom('..', '.', '', '../a', '/etc', 'a/b', 'a\0b', 'outside', '.ssh', '\ud800') },
  { weight: 1, arbitrary: fc.string({ maxLength: 8 }) },
);
const entry = fc.record({
  name,
  path: fc.oneof(name, fc.constantFrom('/x/.ssh', '../../outside')),
  type: fc.constantFrom('file' as const, 'directory' as const, 'symlink' as const, 'other' as const),
  bytes: fc.nat(20),
  mode: fc.nat(0o7777),
  owner: fc.constant('u'),
  group: fc.constant('g'),
  modifiedMs: fc.constant(1),
  symlinkTarget: fc.constantFrom(null, 'a', '..', '../outside', '/etc', ''),
});
const listing = fc.array(entry, { maxLength: 4 });

/** Removing a tree from a disk takes longer than all the rest. */
const SCRATCH = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();

export const copyOutOf = structured(
  'copy-out',
  fc.record({
    source: fc.constantFrom('/x/a', 'a', '/x/.', '..', '/', 'sub/link', '~', '/x/sub', 'target/.'),
    into: fc.constantFrom('', 'target', 'target/', 'target/new', 'link', 'link/'),
    root: entry,
    lists: fc.array(listing, { minLength: 1, maxLength: 4 }),
  }),
  async ({ source, into, root, lists }) => {
    const dir = mkdtempSync(join(SCRATCH, 'nv-fuzz-cp-'));
    try {
      prepare(dir);
      const before = seen(join(dir, 'outside'));
      let turn = 0;
      const guest = {
        files: {
          stat: () => Promise.resolve(root),
          // Ends after some levels, or the guest could go on until the limit.
          list: (): Promise<readonly FileEntry[]> => Promise.resolve(lists[turn++] ?? []),
          read: () => Promise.resolve(Readable.from([Buffer.from('hostile')])),
        },
      };
      try {
        await copyOut(guest as unknown as Guest, source, join(dir, 'here', into));
      } catch (error) {
        must(error instanceof CopyError || errorCode(error) !== undefined, `an untyped error: ${String(error)}`);
      }
      // With a slash, the owner asked for what the link leads to.
      if (into !== 'link/') must(seen(join(dir, 'outside')) === before, 'written outside');
      must(seen(join(dir, 'outside/.ssh')) === SECRET, 'replaced outside');
      const others = readdirSync(dir).filter((each) => each !== 'here' && each !== 'outside');
      must(others.length === 0, `written beside: ${others.join()}`);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  },
  { maxBytes: 400 },
);

const SECRET = '{"keys":"mine"}';

function prepare(dir: string): void {
  mkdirSync(join(dir, 'here/target/sub'), { recursive: true });
  mkdirSync(join(dir, 'outside/.ssh'), { recursive: true });
  writeFileSync(join(dir, 'outside/.ssh/keys'), 'mine');
  writeFileSync(join(dir, 'here/target/kept'), 'kept');
  symlinkSync('../outside', join(dir, 'here/link'));
  symlinkSync('../../outside/.ssh', join(dir, 'here/target/link'));
  symlinkSync('../../../outside', join(dir, 'here/target/sub/out'));
}

/** Names and contents, without following links. */
function seen(dir: string): string {
  const names = readdirSync(dir).sort();
  const read = (path: string): string => {
    const info = lstatSync(path);
    if (info.isDirectory()) return seen(path);
    return info.isFile() ? readFileSync(path, 'utf8') : 'other';
  };
  return JSON.stringify(Object.fromEntries(names.map((each) => [each, read(join(dir, each))])));
}

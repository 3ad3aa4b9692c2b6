/** `run --sync` from a guest that lies about its files: nothing is written outside the project, in `.git`, or behind a link. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import fc from 'fast-check';
import type { Content } from '../../src/artifacts/transfer/content.ts';
import { CopyTarget } from '../../src/artifacts/transfer/copy-target.ts';
import { IgnoreRules } from '../../src/artifacts/transfer/ignored.ts';
import { applyChanges, reviewChanges } from '../../src/artifacts/transfer/review.ts';
import { CopyError } from '../../src/artifacts/transfer/transfer.ts';
import { errorCode } from '../../src/base/errors.ts';
import type { FileEntry, Guest } from '../../src/machine/guest/link.ts';
import { must, structured } from './target.ts';

const name = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom('kept', 'sub', 'link', 'new', 'deep', 'd2') },
  { weight: 2, arbitrary: fc.constantFrom('..', '.git', '', '../a', 'a/b', 'a\0b', '\ud800') },
  { weight: 1, arbitrary: fc.string({ maxLength: 8 }) },
);
const entry = fc.record({
  name,
  path: name,
  type: fc.constantFrom(
    'file' as const,
    'directory' as const,
    'directory' as const,
    'symlink' as const,
    'other' as const,
  ),
  bytes: fc.nat(8),
  mode: fc.nat(0o7777),
  owner: fc.constant('u'),
  group: fc.constant('g'),
  modifiedMs: fc.constant(1),
  symlinkTarget: fc.constantFrom(
    null,
    '.',
    '..',
    '../..',
    'deep/d2',
    'deep/d2/../../../outside',
    '../kept',
    '/etc',
    '../outside',
    'sub/../../outside',
  ),
});
const listing = fc.array(entry, { maxLength: 4 });
const SCRATCH = existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
const root: FileEntry = {
  name: 'project',
  path: '/p',
  type: 'directory',
  bytes: 0,
  mode: 0o755,
  owner: 'u',
  group: 'g',
  modifiedMs: 1,
  symlinkTarget: null,
};

export const review = structured(
  'review',
  fc.record({ lists: fc.array(listing, { minLength: 1, maxLength: 5 }), sums: fc.string() }),
  async ({ lists, sums }) => {
    const dir = mkdtempSync(join(SCRATCH, 'nv-fuzz-review-'));
    try {
      const project = join(dir, 'project');
      mkdirSync(join(project, 'sub/deep'), { recursive: true });
      mkdirSync(join(project, '.git'));
      mkdirSync(join(dir, 'outside'));
      mkdirSync(join(dir, 'staging'));
      for (const path of ['project/kept', 'project/sub/kept', 'project/.git/config', 'outside/kept'])
        writeFileSync(join(dir, path), 'kept');
      symlinkSync('../outside', join(project, 'link'));
      const before = seen(join(dir, 'outside')) + seen(join(project, '.git'));
      const here = new CopyTarget(project);
      const contents = new Map<string, Content>();
      for (const path of ['kept', 'link', 'sub', 'sub/deep', 'sub/kept']) {
        const content = await here.contentOf(path);
        if (content !== null) contents.set(path, content);
      }
      let turn = 0;
      const guest = {
        files: {
          stat: () => Promise.resolve(root),
          list: (): Promise<readonly FileEntry[]> => Promise.resolve(lists[turn++] ?? []),
          read: () => Promise.resolve(Readable.from([Buffer.from('hostile')])),
        },
        exec: () =>
          Promise.resolve({
            stdin: new PassThrough().resume(),
            stdout: Readable.from([Buffer.from(sums)]),
            stderr: Readable.from([]),
            exit: Promise.resolve({ exitCode: 0 }),
          }),
      };
      const sent = { from: project, to: '/p', rules: new IgnoreRules(), contents };
      try {
        const found = await reviewChanges(guest as unknown as Guest, sent, join(dir, 'staging'), {});
        await applyChanges(sent, found);
      } catch (error) {
        must(error instanceof CopyError || errorCode(error) !== undefined, `an untyped error: ${String(error)}`);
      }
      const after = seen(join(dir, 'outside')) + seen(join(project, '.git'));
      must(after === before, 'written outside, or in .git');
      const others = readdirSync(dir).sort().join();
      must(others === 'outside,project,staging', `written beside: ${others}`);
      expectLinksInside(project, project);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  },
  { maxBytes: 400 },
);

/** No link of the guest resolves outside. The owner's own link, as it was, may. */
function expectLinksInside(project: string, dir: string): void {
  for (const each of readdirSync(dir)) {
    const path = join(dir, each);
    const info = lstatSync(path);
    if (info.isDirectory()) expectLinksInside(project, path);
    if (!info.isSymbolicLink()) continue;
    if (path === join(project, 'link') && readlinkSync(path) === '../outside') continue;
    if (!existsSync(path)) continue;
    const real = realpathSync(path);
    const isInside = real === project || real.startsWith(`${project}/`);
    // Through the owner's link, a link of the guest leads where that one does.
    const isOwners = real.startsWith(join(project, '../outside'));
    must(isInside || (isOwners && readlinkSync(path).includes('link')), `${path} leads to ${real}`);
  }
}

function seen(dir: string): string {
  return JSON.stringify(
    readdirSync(dir)
      .sort()
      .map((each) => [each, readFileSync(join(dir, each), 'utf8')]),
  );
}

import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ArchiveMember, archive } from './archive.ts';
import { readArchive } from './archive-reader.ts';
import { CopyError } from './transfer.ts';

const name = fc.stringMatching(/^[a-zü.]{1,60}$/).filter((text) => !/^\.+$/.test(text));
const path = fc.array(name, { minLength: 1, maxLength: 6 }).map((parts) => parts.join('/'));
const mode = fc.nat({ max: 0o7777 });
const modifiedS = fc.nat();
const content = fc.uint8Array({ maxLength: 2000 });
const member: fc.Arbitrary<ArchiveMember & { readonly content: Uint8Array }> = fc.oneof(
  fc
    .record({ type: fc.constant('file' as const), path, mode, modifiedS, content })
    .map((one) => ({ ...one, bytes: one.content.length })),
  fc.record({ type: fc.constant('directory' as const), path, mode, modifiedS }).map(empty),
  fc.record({ type: fc.constant('symlink' as const), path, mode, modifiedS, target: path }).map(empty),
);

function empty<T extends object>(one: T): T & { bytes: number; content: Uint8Array } {
  return { ...one, bytes: 0, content: new Uint8Array() };
}

async function* cut(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

const packed = (members: readonly (ArchiveMember & { readonly content: Uint8Array })[]) =>
  buffer(Readable.from(archive(members, (one) => Readable.from([Buffer.from(one.content)]))));

describe('readArchive properties', () => {
  it('returns what archive wrote, however the bytes arrive', async () => {
    const size = fc.integer({ min: 1, max: 3000 });
    await fc.assert(
      fc.asyncProperty(fc.array(member, { maxLength: 8 }), size, async (members, bytes) => {
        const seen: object[] = [];
        for await (const { content: parts, ...one } of readArchive(cut(await packed(members), bytes))) {
          seen.push({ ...one, content: new Uint8Array(await buffer(Readable.from(parts))) });
        }
        expect(seen).toEqual(members);
      }),
      { numRuns: 200 },
    );
  });

  it('altered or random bytes: members with paths below the directory, or a CopyError', async () => {
    const change = fc.record({ at: fc.nat(), byte: fc.nat({ max: 255 }) });
    const changes = fc.array(change, { minLength: 1, maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(fc.array(member, { maxLength: 4 }), changes, fc.boolean(), async (members, edits, fixes) => {
        const bytes = await packed(members);
        for (const { at, byte } of edits) bytes[at % bytes.length] = byte;
        if (fixes) for (let at = 0; at + 512 <= bytes.length; at += 512) setSum(bytes.subarray(at, at + 512));
        try {
          for await (const { path: seen } of readArchive(cut(bytes, 512))) {
            expect(seen).not.toMatch(/^\/|(^|\/)\.\.(\/|$)|\0/);
          }
        } catch (error) {
          if (!(error instanceof CopyError)) throw error;
        }
      }),
      { numRuns: 1000 },
    );
  });
});

/** Makes a block of an archive valid again after a change. */
function setSum(block: Buffer): void {
  if (block.toString('latin1', 257, 262) !== 'ustar') return;
  block.write(' '.repeat(8), 148);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
}

/**
 * Writes a tar archive in GNU's format, which BusyBox also extracts: one stream carries a whole tree into a guest. One
 * process per file would cost 20 ms each in an emulated guest.
 */
import { CopyError } from './transfer.ts';

export interface ArchiveMember {
  readonly type: 'file' | 'directory' | 'symlink';
  /** Relative, of single components. */
  readonly path: string;
  readonly mode: number;
  readonly bytes: number;
  readonly target?: string;
  /** Seconds since 1970. Default: 0. */
  readonly modifiedS?: number;
}

const BLOCK_BYTES = 512;
const NAME_BYTES_MAX = 100;
/** Eleven octal digits. */
const SIZE_MAX = 0o77777777777;
const TYPE_FLAGS = { file: '0', symlink: '2', directory: '5' } as const;

/** The blocks before the content of a member. */
export function memberHeader(member: ArchiveMember): Buffer {
  const { type, target = '', modifiedS = 0 } = member;
  const path = `./${member.path}`;
  const size = type === 'file' ? member.bytes : 0;
  const own = block({ path, mode: member.mode, size, flag: TYPE_FLAGS[type], target, modifiedS });
  return Buffer.concat([...longName('K', target), ...longName('L', path), own]);
}

/** Precedes a member whose name does not fit into its header. @param flag `K` for a link's target */
function longName(flag: 'K' | 'L', name: string): readonly Buffer[] {
  if (Buffer.byteLength(name) <= NAME_BYTES_MAX) return [];
  const content = Buffer.from(`${name}\0`);
  const header = { path: '././@LongLink', mode: 0o644, size: content.length, flag, target: '' };
  return [block(header), content, padding(content.length)];
}

/** Fills the last block of a content. */
export const padding = (bytes: number): Buffer => Buffer.alloc((BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES);

export const ARCHIVE_END = Buffer.alloc(2 * BLOCK_BYTES);

/** @param content of each file; must have the size that its member states. @throws CopyError `invalid_source` */
export async function* archive<Member extends ArchiveMember>(
  members: readonly Member[],
  content: (member: Member) => AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  for (const member of members) {
    yield memberHeader(member);
    if (member.type !== 'file') continue;
    let bytes = 0;
    for await (const chunk of content(member)) {
      bytes += chunk.length;
      if (bytes > member.bytes) break;
      yield chunk;
    }
    if (bytes !== member.bytes) {
      throw new CopyError('invalid_source', `${member.path} changed while it was copied`, {
        remedy: 'copy it again when nothing writes to it',
      });
    }
    yield padding(bytes);
  }
  yield ARCHIVE_END;
}

interface Block {
  readonly path: string;
  readonly mode: number;
  readonly size: number;
  readonly flag: string;
  readonly target: string;
  readonly modifiedS?: number;
}

function block({ path, mode, size, flag, target, modifiedS = 0 }: Block): Buffer {
  const header = Buffer.alloc(BLOCK_BYTES);
  Buffer.from(path).copy(header, 0, 0, NAME_BYTES_MAX);
  header.write(octal(mode, 7), 100);
  // User and group are 0: the guest's tar gives every file to the user that extracts it.
  header.write(octal(0, 7), 108);
  header.write(octal(0, 7), 116);
  writeSize(header, size);
  header.write(octal(Math.min(Math.max(0, modifiedS), SIZE_MAX), 11), 136);
  header.write(' '.repeat(8), 148);
  header.write(flag, 156);
  Buffer.from(target).copy(header, 157, 0, NAME_BYTES_MAX);
  header.write('ustar  \0', 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${octal(sum, 6)}\0 `, 148);
  return header;
}

const octal = (value: number, digits: number): string => value.toString(8).padStart(digits, '0');

/** Octal, or binary with a mark if that is too long. */
function writeSize(header: Buffer, size: number): void {
  if (size <= SIZE_MAX) {
    header.write(octal(size, 11), 124);
    return;
  }
  header[124] = 0x80;
  header.writeBigUInt64BE(BigInt(size), 128);
}

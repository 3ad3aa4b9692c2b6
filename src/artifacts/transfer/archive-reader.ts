/**
 * Reads a tar archive that a stranger sent: members in order, each with its content. GNU's long names and the paths of
 * POSIX (pax) headers count (tar(5)); hard links, devices and pipes do not occur in what it is read for, and are errors.
 */
import { KIB } from '../../base/units.ts';
import type { ArchiveMember } from './archive.ts';
import { CopyError } from './transfer.ts';

const BLOCK_BYTES = 512;
/** PATH_MAX of Linux. */
const PATH_BYTES_MAX = 4096;
const NAME_BYTES_MAX = 255;
/** Headers that only describe the next member. */
const NOTE_BYTES_MAX = 64 * KIB;
const NOTES_MAX = 16;
const TYPES: Readonly<Record<string, ArchiveMember['type']>> = {
  '0': 'file',
  '\0': 'file',
  '2': 'symlink',
  '5': 'directory',
};

export interface ReadMember extends ArchiveMember {
  /** Of a file: its bytes. What is not read is skipped. */
  readonly content: AsyncIterable<Uint8Array>;
}

interface Notes {
  path?: string;
  target?: string;
}

/**
 * @yields members with clean relative paths; the archive's own directory has an empty one
 * @throws CopyError `invalid_source`: not a whole archive, or it has a member that is none of a file, directory or link
 */
export async function* readArchive(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<ReadMember> {
  const source = new Source(chunks);
  let notes: Notes = {};
  let notesCount = 0;
  for (;;) {
    const header = await source.block();
    if (header.every((byte) => byte === 0)) {
      await source.drain();
      return;
    }
    checkSum(header);
    const flag = String.fromCharCode(header[156] ?? 0);
    const size = sizeOf(header);
    if ('LKxg'.includes(flag)) {
      notesCount += 1;
      if (size > NOTE_BYTES_MAX || notesCount > NOTES_MAX) throw damaged('its names are too long');
      const text = await source.text(size);
      if (flag === 'L') notes.path = cString(text);
      else if (flag === 'K') notes.target = cString(text);
      else if (flag === 'x') notes = { ...notes, ...paxOf(text) };
      continue;
    }
    const name = notes.path ?? nameOf(header);
    const type = TYPES[flag];
    if (type === undefined) throw damaged(`${shown(name)} is not a file, a directory or a symbolic link`);
    const path = cleanMemberPath(name);
    const target = notes.target ?? fieldOf(header, 157, 100);
    if (type === 'symlink' && (target === '' || Buffer.byteLength(target) >= PATH_BYTES_MAX)) {
      throw damaged(`the link ${shown(name)} has no valid target`);
    }
    notes = {};
    notesCount = 0;
    const bytes = type === 'file' ? size : 0;
    if (type !== 'file' && size !== 0) throw damaged(`${shown(name)} has a content`);
    const member = { type, path, bytes, mode: octal(header, 100, 8) & 0o7777, modifiedS: octal(header, 136, 12) };
    const content = source.content(bytes);
    if (path === '' && type !== 'directory') throw damaged('it has a file without a name');
    yield { ...member, content, ...(type === 'symlink' ? { target } : {}) };
    await source.skip();
  }
}

/** Bytes of the archive as they are needed; content of one member at a time. */
class Source {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = Buffer.alloc(0);
  /** What the member has left, without its padding. */
  #left = 0;
  #padding = 0;

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]();
  }

  async block(): Promise<Buffer> {
    return await this.#exactly(BLOCK_BYTES);
  }

  async text(size: number): Promise<string> {
    const bytes = await this.#exactly(size + paddingOf(size));
    return bytes.toString('utf8', 0, size);
  }

  content(bytes: number): AsyncIterable<Uint8Array> {
    this.#left = bytes;
    this.#padding = paddingOf(bytes);
    return this.#content();
  }

  async *#content(): AsyncGenerator<Uint8Array> {
    while (this.#left > 0) {
      const part = await this.#some(this.#left);
      this.#left -= part.length;
      yield part;
    }
  }

  async skip(): Promise<void> {
    for (this.#left += this.#padding; this.#left > 0; ) this.#left -= (await this.#some(this.#left)).length;
    this.#padding = 0;
  }

  /** Archives end with zeros of any number, and a sender must not be cut off in them. */
  async drain(): Promise<void> {
    for (let part = this.#rest; ; ) {
      if (part.some((byte) => byte !== 0)) throw damaged('something follows its end');
      const { done, value } = await this.#chunks.next();
      if (done === true) return;
      part = value;
    }
  }

  async #exactly(bytes: number): Promise<Buffer> {
    const parts: Uint8Array[] = [];
    for (let left = bytes; left > 0; ) {
      const part = await this.#some(left);
      parts.push(part);
      left -= part.length;
    }
    return Buffer.concat(parts);
  }

  async #some(most: number): Promise<Uint8Array> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#chunks.next();
      if (done === true) throw damaged('it ends too early');
      this.#rest = value;
    }
    const part = this.#rest.subarray(0, most);
    this.#rest = this.#rest.subarray(part.length);
    return part;
  }
}

const paddingOf = (bytes: number): number => (BLOCK_BYTES - (bytes % BLOCK_BYTES)) % BLOCK_BYTES;

/** The sum of all bytes, with spaces for the sum itself. */
function checkSum(header: Buffer): void {
  const sum = header.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 0x20 : byte), 0);
  if (header.toString('latin1', 257, 262) === 'ustar' && octal(header, 148, 8) === sum) return;
  const isGzip = header[0] === 0x1f && header[1] === 0x8b;
  throw damaged(isGzip ? 'it is compressed' : 'it is not a tar archive');
}

function sizeOf(header: Buffer): number {
  if (((header[124] ?? 0) & 0x80) === 0) return octal(header, 124, 12);
  // Base 256, for files from 8 GiB.
  const size = header.readBigUInt64BE(128);
  if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw damaged('it has a file of an impossible size');
  return Number(size);
}

function octal(header: Buffer, at: number, length: number): number {
  const text = header
    .toString('latin1', at, at + length)
    .replace(/\0.*$/s, '')
    .trim();
  if (!/^[0-7]*$/.test(text)) throw damaged('a number in it is not octal');
  return text === '' ? 0 : Number.parseInt(text, 8);
}

function nameOf(header: Buffer): string {
  const name = fieldOf(header, 0, 100);
  // POSIX has a prefix where GNU has times.
  const isPosix = header.toString('latin1', 257, 263) === 'ustar\0';
  const prefix = isPosix ? fieldOf(header, 345, 155) : '';
  return prefix === '' ? name : `${prefix}/${name}`;
}

const fieldOf = (header: Buffer, at: number, length: number): string =>
  cString(header.toString('utf8', at, at + length));
const cString = (text: string): string => text.replace(/\0.*$/s, '');

/** Records `LENGTH KEY=VALUE\n`. */
function paxOf(text: string): Notes {
  const notes: Notes = {};
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) {
    const space = bytes.indexOf(' ', at);
    const length = Number(bytes.toString('latin1', at, space < 0 ? at : space));
    const end = at + length;
    if (!Number.isInteger(length) || length < 5 || end > bytes.length || bytes[end - 1] !== 0x0a) {
      throw damaged('a header of it is damaged');
    }
    const record = bytes.toString('utf8', space + 1, end - 1);
    const equals = record.indexOf('=');
    const key = record.slice(0, equals);
    if (key === 'path') notes.path = record.slice(equals + 1);
    else if (key === 'linkpath') notes.target = record.slice(equals + 1);
    // The size would differ from the one that is skipped here.
    else if (key === 'size' || key.startsWith('GNU.sparse')) throw damaged('it has a sparse or too large file');
    at = end;
  }
  return notes;
}

/** `./a/b/` → `a/b`; empty for the archive's own directory. @throws CopyError for a path that leads elsewhere */
function cleanMemberPath(name: string): string {
  const parts = name.split('/').filter((part) => part !== '' && part !== '.');
  const isTooLong =
    Buffer.byteLength(name) >= PATH_BYTES_MAX || parts.some((part) => Buffer.byteLength(part) > NAME_BYTES_MAX);
  if (name.startsWith('/') || name.includes('\0') || parts.includes('..') || isTooLong) {
    throw damaged(`the path ${shown(name)} is not one below its directory`);
  }
  return parts.join('/');
}

const shown = (text: string): string => JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text);

const damaged = (why: string): CopyError => new CopyError('invalid_source', `the archive can't be used: ${why}`);

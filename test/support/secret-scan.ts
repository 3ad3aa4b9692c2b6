/** Searches a whole sandbox for texts: RAM of guests, and files. */
import { readdirSync, readlinkSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';

const CHUNK_BYTES = 8 * 1024 * 1024;

export interface Hits {
  /** Number of searched files, and their bytes. */
  readonly files: number;
  readonly bytes: number;
  /** Number of places of each text. */
  readonly places: readonly number[];
}

/** RAM of the guests that a process holds: its memfds. */
export async function scanMemory(pid: number, texts: readonly string[]): Promise<Hits> {
  const dir = `/proc/${pid}/fd`;
  const fds = readdirSync(dir).map((fd) => join(dir, fd));
  return await scan(
    fds.filter((fd) => linkOf(fd).startsWith('/memfd:')),
    texts,
  );
}

/** Files below a directory; links are not followed. */
export async function scanFiles(dir: string, texts: readonly string[]): Promise<Hits> {
  return await scan(filesBelow(dir), texts);
}

/** Node's own recursion follows links. */
function filesBelow(dir: string): string[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) return filesBelow(path);
    return entry.isFile() ? [path] : [];
  });
}

async function scan(paths: readonly string[], texts: readonly string[]): Promise<Hits> {
  const places = texts.map(() => 0);
  let bytes = 0;
  for (const path of paths) bytes += await scanFile(path, texts, places);
  return { files: paths.length, bytes, places };
}

/** Chunks overlap, so that a text across two is found, and found once. */
async function scanFile(path: string, texts: readonly string[], places: number[]): Promise<number> {
  const overlap = Math.max(...texts.map((text) => text.length)) - 1;
  const buffer = Buffer.alloc(overlap + CHUNK_BYTES);
  const file = await open(path);
  try {
    for (let at = 0; ; at += CHUNK_BYTES) {
      const { bytesRead: read } = await file.read(buffer, overlap, CHUNK_BYTES, at);
      const end = overlap + read;
      for (const [index, text] of texts.entries()) {
        const first = overlap - text.length + 1;
        let found = buffer.indexOf(text, first, 'latin1');
        while (found >= 0 && found + text.length <= end) {
          places[index] = (places[index] ?? 0) + 1;
          found = buffer.indexOf(text, found + 1, 'latin1');
        }
      }
      if (read < CHUNK_BYTES) return at + read;
      buffer.copy(buffer, 0, CHUNK_BYTES);
    }
  } finally {
    await file.close();
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    // The descriptor was closed in between.
    return '';
  }
}

/** `--copy PATH[:TARGET]`: puts a host file or directory into the guest before the script runs. */
import { createReadStream } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Guest } from '../guest/link.ts';
import { UsageError } from './failure.ts';

const ENTRIES_MAX = 10_000;

/** Directories are copied whole; symbolic links are not followed but refused, so that nothing leaks in. */
export async function copyIn(guest: Guest, spec: string): Promise<void> {
  const at = spec.lastIndexOf(':');
  const source = at > 0 ? spec.slice(0, at) : spec;
  const target = at > 0 ? spec.slice(at + 1) : basename(source);
  let entries = 0;
  const copy = async (from: string, to: string): Promise<void> => {
    entries += 1;
    if (entries > ENTRIES_MAX)
      throw new UsageError(`--copy ${source}: more than ${ENTRIES_MAX} files`);
    const info = await lstat(from).catch((error: unknown) => {
      throw new UsageError(`--copy ${from}: ${error instanceof Error ? error.message : error}`);
    });
    if (info.isFile()) {
      await guest.files.write(to, createReadStream(from), { mode: info.mode & 0o777 });
    } else if (info.isDirectory()) {
      for (const name of await readdir(from)) await copy(join(from, name), `${to}/${name}`);
    } else {
      throw new UsageError(`--copy ${from}: neither a file nor a directory`);
    }
  };
  await copy(source, target);
}

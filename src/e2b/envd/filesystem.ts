/** `filesystem.Filesystem` of E2B's envd. */
import { z } from 'zod';
import type { FileEntry, FileEvent } from '../../guest/guest.ts';
import { type Call, keepAliveOf } from './call.ts';
import { ConnectError, checked } from './connect.ts';
import { isGuestError } from './failures.ts';
import type { Outlet } from './service.ts';

const path = z.string().min(1).max(4096);

export class FilesystemService {
  async stat(call: Call, message: unknown): Promise<unknown> {
    const wanted = checked(z.object({ path }), message);
    const { files } = await call.guest();
    return { entry: entryView(await files.stat(wanted.path, userOption(call))) };
  }

  async makeDir(call: Call, message: unknown): Promise<unknown> {
    const wanted = checked(z.object({ path }), message);
    const { files } = await call.guest();
    return { entry: entryView(await files.makeDirectory(wanted.path, userOption(call))) };
  }

  async move(call: Call, message: unknown): Promise<unknown> {
    const { source, destination } = checked(z.object({ source: path, destination: path }), message);
    const { files } = await call.guest();
    return { entry: entryView(await files.move(source, destination, userOption(call))) };
  }

  async listDir(call: Call, message: unknown): Promise<unknown> {
    const schema = z.object({ path, depth: z.number().int().min(0).max(32).default(0) });
    const { path: directory, depth } = checked(schema, message);
    const { files } = await call.guest();
    const options = { ...userOption(call), depth: Math.max(1, depth) };
    return { entries: (await files.list(directory, options)).map(entryView) };
  }

  async remove(call: Call, message: unknown): Promise<unknown> {
    const wanted = checked(z.object({ path }), message);
    const { files } = await call.guest();
    try {
      await files.remove(wanted.path, userOption(call));
    } catch (error) {
      if (!isGuestError(error) || error.code !== 'not_found') throw error;
    }
    return {};
  }

  async watchDir(call: Call, message: unknown, outlet: Outlet): Promise<void> {
    const schema = z.object({ path, recursive: z.boolean().default(false) });
    const { path: directory, recursive } = checked(schema, message);
    const { files } = await call.guest();
    const watch = await files.watch(directory, { ...userOption(call), recursive }, (event) => {
      const view = eventView(event);
      if (view !== null) void outlet.send({ filesystem: view });
    });
    try {
      outlet.keepAlive(keepAliveOf(call.request), { keepalive: {} });
      await outlet.send({ start: {} });
      await Promise.race([watch.ended, outlet.gone]);
    } finally {
      watch.stop();
    }
    throw new ConnectError('unavailable', 'the watch has ended');
  }
}

const userOption = ({ user }: Call): { readonly user?: string } =>
  user === undefined ? {} : { user };

const TYPES: Readonly<Record<FileEntry['type'], string>> = {
  file: 'FILE_TYPE_FILE',
  directory: 'FILE_TYPE_DIRECTORY',
  symlink: 'FILE_TYPE_SYMLINK',
  other: 'FILE_TYPE_UNSPECIFIED',
};

function entryView(entry: FileEntry): unknown {
  const { name, type, bytes, mode, owner, group, modifiedMs, symlinkTarget } = entry;
  return {
    name,
    type: TYPES[type],
    path: entry.path,
    size: String(bytes),
    mode,
    permissions: permissionsOf(type, mode),
    owner,
    group,
    modifiedTime: new Date(modifiedMs).toISOString(),
    ...(symlinkTarget === null ? {} : { symlinkTarget }),
  };
}

/** As Go writes them: `drwxr-xr-x`. */
function permissionsOf(type: FileEntry['type'], mode: number): string {
  const kind = { file: '-', directory: 'd', symlink: 'L', other: '?' }[type];
  const bits = [...'rwxrwxrwx'].map((letter, index) =>
    (mode & (0o400 >> index)) === 0 ? '-' : letter,
  );
  return kind + bits.join('');
}

const EVENTS: Readonly<Record<FileEvent['type'], string | null>> = {
  create: 'EVENT_TYPE_CREATE',
  write: 'EVENT_TYPE_WRITE',
  remove: 'EVENT_TYPE_REMOVE',
  rename: 'EVENT_TYPE_RENAME',
  chmod: 'EVENT_TYPE_CHMOD',
  // E2B has no word for lost events.
  overflow: null,
};

function eventView({ type, name }: FileEvent): unknown {
  const word = EVENTS[type];
  return word === null ? null : { name, type: word };
}

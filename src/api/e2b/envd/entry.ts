/** A file as E2B's messages describe it. */
import type { FileEntry } from '../../../machine/guest/guest.ts';

const TYPES: Readonly<Record<FileEntry['type'], string>> = {
  file: 'FILE_TYPE_FILE',
  directory: 'FILE_TYPE_DIRECTORY',
  symlink: 'FILE_TYPE_SYMLINK',
  other: 'FILE_TYPE_UNSPECIFIED',
};
const KINDS: Readonly<Record<FileEntry['type'], string>> = { file: '-', directory: 'd', symlink: 'L', other: '?' };

/** A symbolic link has the type and mode of its target, and its own size and permissions. */
export function entryView(entry: FileEntry): Readonly<Record<string, unknown>> {
  const { name, type, bytes, mode, owner, group, modifiedMs, target, metadata } = entry;
  const isBroken = type === 'symlink' && target == null;
  return {
    name,
    type: isBroken ? 'FILE_TYPE_UNSPECIFIED' : TYPES[target?.type ?? type],
    path: entry.path,
    size: String(bytes),
    mode: target?.mode ?? (isBroken ? 0 : mode),
    permissions: permissionsOf(type, mode),
    owner,
    group,
    modifiedTime: timeText(modifiedMs),
    ...(type === 'symlink' ? { symlinkTarget: target?.path ?? entry.path } : {}),
    ...(metadata === undefined ? {} : { metadata }),
  };
}

/** Protobuf's timestamps cover the years 1 to 9999; a guest may give a file any time. */
const TIME_MS = { min: Date.parse('0001-01-01T00:00:00Z'), max: Date.parse('9999-12-31T23:59:59.999Z') } as const;
const timeText = (ms: number): string => new Date(Math.min(Math.max(ms, TIME_MS.min), TIME_MS.max)).toISOString();

/** In Go's form: `drwxr-xr-x`. */
function permissionsOf(type: FileEntry['type'], mode: number): string {
  const bits = [...'rwxrwxrwx'].map((letter, index) => ((mode & (0o400 >> index)) === 0 ? '-' : letter));
  return KINDS[type] + bits.join('');
}

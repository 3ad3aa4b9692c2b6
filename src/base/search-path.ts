/** Directories of mkfs, nft and similar programs, which are not in an ordinary user's PATH. */
const SYSTEM_DIRS = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'];

/** @param path a PATH. @returns it with the system's directories appended */
export function searchPath(path: string | undefined): string {
  const own = (path ?? '').split(':').filter((dir) => dir !== '');
  return [...own, ...SYSTEM_DIRS.filter((dir) => !own.includes(dir))].join(':');
}

/** Directories that hold mkfs, nft and their like but are not in an ordinary user's PATH. */
const SYSTEM_DIRS = ['/usr/local/sbin', '/usr/sbin', '/sbin', '/usr/bin', '/bin'];

/** @param path a PATH. @returns the same with the system's directories behind it */
export function searchPath(path: string | undefined): string {
  const own = (path ?? '').split(':').filter((dir) => dir !== '');
  return [...own, ...SYSTEM_DIRS.filter((dir) => !own.includes(dir))].join(':');
}

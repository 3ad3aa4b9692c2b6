/** Archives of Debian and Ubuntu, by the last part of their path. */
export const APT_ARCHIVES = ['debian', 'debian-security', 'ubuntu', 'ubuntu-ports'] as const;
export type AptArchive = (typeof APT_ARCHIVES)[number];

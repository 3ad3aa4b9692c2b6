/** Binary units, in bytes. */
export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

/** Unit of `st_blocks`, whatever the file system (inode(7)). */
export const STAT_BLOCK_BYTES = 512;

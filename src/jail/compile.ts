/** Stub of the contract. */
import type { ThreadFilter } from './profile.ts';

export type Architecture = 'x86_64' | 'aarch64';

export interface CompiledFilter {
  /** `struct sock_filter[]` (linux/filter.h) as the kernel takes it: 8 bytes an instruction, little-endian. */
  readonly program: Uint8Array<ArrayBuffer>;
  /** At most 4096. */
  readonly instructions: number;
}

/** @throws JailError `profile_invalid`, `profile_too_large` */
export function compileProfile(_filter: ThreadFilter, _arch: Architecture): CompiledFilter {
  throw new Error('not yet');
}

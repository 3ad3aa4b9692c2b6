/**
 * Builds a launcher that installs a seccomp filter and then executes another program, which thus has the filter from its
 * first instruction on, in addition to its own. No standard tool does only this. Pure.
 *
 *     argv: itself, the program's path, its arguments…
 *     prctl(PR_SET_NO_NEW_PRIVS) · seccomp(SECCOMP_SET_MODE_FILTER) · execve; a failure exits with its own status
 */

import { ELF_CONTENT_AT, elfProgram } from '../elf.ts';
import type { CompiledFilter } from './compile.ts';

/** Exit statuses of the launcher, by failed step. */
export const LAUNCHER_ENDS = {
  privileges: 121,
  filter: 122,
  /** As in a shell. */
  program: 126,
} as const;

/** Load address of programs that are not relocatable (x86_64). */
const BASE = 0x40_0000;
const ADDRESS = BASE + ELF_CONTENT_AT;

const SYSCALL = [0x0f, 0x05];
const exit = (status: number): number[] =>
  [
    [0xbf, status, 0, 0, 0], // mov edi, …
    [0xb8, 231, 0, 0, 0], // mov eax, __NR_exit_group
    SYSCALL,
  ].flat();
const unlessZero = (code: number[]): number[] =>
  [
    [0x85, 0xc0], // test eax, eax
    [0x74, code.length], // jz, past the code
    ...code,
  ].flat();

const PRCTL = [
  [0x48, 0x89, 0xe3], // mov rbx, rsp: argc, argv, NULL, envp
  [0xbf, 38, 0, 0, 0], // mov edi, PR_SET_NO_NEW_PRIVS
  [0xbe, 1, 0, 0, 0], // mov esi, 1
  [0x31, 0xd2], // xor edx, edx
  [0x4d, 0x31, 0xd2], // xor r10, r10
  [0x4d, 0x31, 0xc0], // xor r8, r8
  [0xb8, 157, 0, 0, 0], // mov eax, __NR_prctl
  SYSCALL,
].flat();
const SECCOMP = [
  [0xbf, 1, 0, 0, 0], // mov edi, SECCOMP_SET_MODE_FILTER
  [0x31, 0xf6], // xor esi, esi
  [0xba], // mov edx, …: the address of `struct sock_fprog`, which is appended
].flat();
const SECCOMP_CALL = [
  [0xb8, 0x3d, 0x01, 0, 0], // mov eax, __NR_seccomp
  SYSCALL,
].flat();
const EXECVE = [
  [0x48, 0x8b, 0x7b, 0x10], // mov rdi, [rbx + 16]: argv[1]
  [0x48, 0x8d, 0x73, 0x10], // lea rsi, [rbx + 16]: &argv[1]
  [0x48, 0x8b, 0x0b], // mov rcx, [rbx]: argc
  [0x48, 0x8d, 0x54, 0xcb, 0x10], // lea rdx, [rbx + 8 * rcx + 16]: behind the NULL after argv
  [0xb8, 59, 0, 0, 0], // mov eax, __NR_execve
  SYSCALL,
].flat();
const ADDRESS_BYTES = 4;
const WORD_BYTES = 8;
/** `struct sock_fprog` (linux/filter.h): unsigned short len; struct sock_filter *filter. */
const FPROG_BYTES = 16;

/** @returns the ELF file, for Linux on x86_64 */
export function filteredExec({ program, instructions }: CompiledFilter): Uint8Array<ArrayBuffer> {
  const start = [...PRCTL, ...unlessZero(exit(LAUNCHER_ENDS.privileges)), ...SECCOMP];
  const rest = [...SECCOMP_CALL, ...unlessZero(exit(LAUNCHER_ENDS.filter)), ...EXECVE, ...exit(LAUNCHER_ENDS.program)];
  const fprogAt = align(start.length + ADDRESS_BYTES + rest.length);
  const filterAt = fprogAt + FPROG_BYTES;
  const content = Buffer.alloc(filterAt + program.length);
  content.set(start);
  content.writeUInt32LE(ADDRESS + fprogAt, start.length);
  content.set(rest, start.length + ADDRESS_BYTES);
  content.writeUInt16LE(instructions, fprogAt);
  content.writeBigUInt64LE(BigInt(ADDRESS + filterAt), fprogAt + WORD_BYTES);
  content.set(program, filterAt);
  return elfProgram(content, BigInt(ADDRESS));
}

const align = (offset: number): number => Math.ceil(offset / WORD_BYTES) * WORD_BYTES;

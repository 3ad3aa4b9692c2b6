/**
 * Writes `src/machine/jail/seccomp/syscall-tables.ts` from this machine's kernel headers (Debian: linux-libc-dev, and
 * gcc for its preprocessor): `node tools/syscall-tables.ts`. Needed only when a profile must name a syscall that is
 * newer than the table.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const OUT = join(import.meta.dirname, '../src/machine/jail/seccomp/syscall-tables.ts');
const LINE_LENGTH = 98;

/** arm64 has the generic table, and these parts of it (arch/arm64/include/uapi/asm/unistd.h). */
const ARM64_WANTS = ['RENAMEAT', 'NEW_STAT', 'SET_GET_RLIMIT', 'TIME32_SYSCALLS', 'SYS_CLONE3', 'MEMFD_SECRET'].map(
  (part) => `-D__ARCH_WANT_${part}`,
);

/** Names in the table that are no calls. */
const BOUNDS: ReadonlySet<string> = new Set(['__NR_syscalls', '__NR_arch_specific_syscall']);

/** number → name */
function numbers(header: string, options: readonly string[]): Map<number, string> {
  const macros = execFileSync('gcc', ['-E', '-dM', ...options, '-'], {
    input: `#include <${header}>\n`,
    encoding: 'utf8',
  });
  const defined = new Map(
    [...macros.matchAll(/^#define (__NR\w+) (\S+)$/gm)].map(([, name = '', value = '']) => [name, value]),
  );
  const value = (text: string): number => {
    const next = defined.get(text);
    return next === undefined ? Number(text) : value(next);
  };
  const out = new Map<number, string>();
  for (const name of defined.keys()) {
    if (!name.startsWith('__NR_') || BOUNDS.has(name)) continue;
    const number = value(name);
    if (!Number.isInteger(number)) throw new Error(`${name} is ${defined.get(name)}`);
    out.set(number, name.slice('__NR_'.length));
  }
  return new Map([...out].sort(([a], [b]) => a - b));
}

/** Each run of numbers without a gap is one line (or more) that begins with the first of them. */
function table(calls: ReadonlyMap<number, string>): string {
  const lines: string[] = [];
  let line = '';
  let next = -1;
  for (const [number, name] of calls) {
    const word = number === next ? ` ${name}` : `${number} ${name}`;
    if (line !== '' && (number !== next || line.length + word.length > LINE_LENGTH)) {
      lines.push(line);
      line = `${number} ${name}`;
    } else line += word;
    next = number + 1;
  }
  return [...lines, line].join('\n');
}

const release = /define LINUX_VERSION_CODE (\d+)/.exec(
  execFileSync('gcc', ['-E', '-dM', '-'], { input: '#include <linux/version.h>\n', encoding: 'utf8' }),
);
const code = Number(release?.[1]);
const version = `${code >> 16}.${(code >> 8) & 255}`;

writeFileSync(
  OUT,
  `/**
 * Numbers of system calls, written by \`tools/syscall-tables.ts\` from the headers of Linux ${version}: asm/unistd_64.h
 * of x86, and asm-generic/unistd.h with the options of arm64. A line starts with the number of its first name;
 * the others follow without a gap.
 */
export const X86_64 = \`
${table(numbers('asm/unistd_64.h', []))}
\`;

export const AARCH64 = \`
${table(numbers('asm-generic/unistd.h', ARM64_WANTS))}
\`;
`,
);

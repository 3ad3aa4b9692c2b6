/**
 * Checks that Kconfig's final configuration has every option of `kernel/guest.config`, and none of `kernel/deny.txt`:
 * Kconfig silently drops lines that it doesn't know or can't satisfy. Pure.
 */

/** Option name → value (`y`, a number, a quoted string); unset options are missing. */
export type KernelConfig = ReadonlyMap<string, string>;

export function parseKernelConfig(text: string): KernelConfig {
  const values = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = /^CONFIG_(\w+)=(.*)$/.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined && match[2] !== 'n') {
      values.set(match[1], match[2]);
    }
  }
  return values;
}

/** Names in lines `# optional: NAME reason` of the fragment: options that some kernel versions lack. */
export function parseOptional(fragment: string): ReadonlySet<string> {
  const names = [...fragment.matchAll(/^# optional: (\w+)/gm)].flatMap((match) => match[1] ?? []);
  return new Set(names);
}

/** Parses one option per line, followed by its reason; `#` starts a comment. */
export function parseDenied(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .flatMap((line) => line.split(/\s+/)[0] ?? []);
}

/** The violations of the final configuration, one sentence each. */
export function configViolations(fragment: string, denied: string, final: string): string[] {
  const values = parseKernelConfig(final);
  const optional = parseOptional(fragment);
  const wrong: string[] = [];
  for (const [name, wanted] of parseKernelConfig(fragment)) {
    const actual = values.get(name);
    if (actual === wanted || (actual === undefined && optional.has(name))) continue;
    wrong.push(`CONFIG_${name} is ${actual ?? 'not set'} instead of ${wanted}`);
  }
  for (const name of parseDenied(denied)) {
    const actual = values.get(name);
    if (actual !== undefined) wrong.push(`CONFIG_${name} is ${actual}, but must be off`);
  }
  return wrong;
}

/**
 * Pure: does the configuration that Kconfig made say what `kernel/guest.config` asked for, and nothing
 * that `kernel/deny.txt` forbids? Kconfig drops a line it doesn't know or can't satisfy without a word.
 */

/** `CONFIG_X` → its value (`y`, a number, a quoted string); what is not set is not in the map. */
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

/** Lines `# optional: NAME reason` in the fragment: options that older or newer sources don't have. */
export function parseOptional(fragment: string): ReadonlySet<string> {
  const names = [...fragment.matchAll(/^# optional: (\w+)/gm)].flatMap((match) => match[1] ?? []);
  return new Set(names);
}

/** One option a line, then the reason; `#` starts a comment. */
export function parseDenied(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'))
    .flatMap((line) => line.split(/\s+/)[0] ?? []);
}

/** What is wrong with the final configuration, one sentence each; empty when all is well. */
export function configViolations(fragment: string, denied: string, final: string): string[] {
  const values = parseKernelConfig(final);
  const optional = parseOptional(fragment);
  const wrong: string[] = [];
  for (const [name, wanted] of parseKernelConfig(fragment)) {
    const actual = values.get(name);
    if (actual === wanted || (actual === undefined && optional.has(name))) continue;
    wrong.push(`CONFIG_${name} is ${actual ?? 'not set'}, asked for was ${wanted}`);
  }
  for (const name of parseDenied(denied)) {
    const actual = values.get(name);
    if (actual !== undefined) wrong.push(`CONFIG_${name} is ${actual}, but must stay off`);
  }
  return wrong;
}

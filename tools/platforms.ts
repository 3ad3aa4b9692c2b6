/** Writes docs/platforms.md from the last run of each file of the nested layer: node tools/platforms.ts */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { readConfig } from '../src/base/config.ts';
import { resolveHome } from '../src/base/home.ts';
import type { NestedRecord } from '../test/support/nested.ts';
import { nestedResults } from './nested/open.ts';

const PAGE = join(import.meta.dirname, '../docs/platforms.md');

const HEAD = `# Platforms

What was run on which platform, with which VMM. \`node tools/platforms.ts\` makes the lists of the emulated host from the last run of
\`./neurovisor test --full nested\`. What failed is marked; all else passed.

| platform | VMM | guest | what runs there, and when |
|---|---|---|---|
| KVM on real hardware | Firecracker, QEMU | Linux | **not run yet.** \`neurovisor doctor --report\` prints what an issue about it needs |
| KVM in an emulated host, cgroup v2, systemd | Firecracker, QEMU | Linux | the cases below; a smoke of both VMMs in each \`./neurovisor test all\` where Firecracker is found |
| software emulation (TCG), cgroup v1 | QEMU | Linux | everything else: layers \`vm\` and \`e2e\` of each \`./neurovisor test all\`, and all figures |
| KVM that boots no Linux, cgroup v1 | Firecracker 1.16.1 | 14 KB of our own | driver, jail, network, proofs: layer \`component\` of each \`./neurovisor test\` |
| a GPU | | | **not run yet**; everything up to loading the library is tested |
`;

/** Suites with the same cases share a list. Pure. */
export function platformsPage({ date, versions, results }: NestedRecord): string {
  const suites = [...new Set(results.map(({ suite }) => suite))];
  const programs = versions.trim().split('\n');
  const rowsOf = (suite: string): NestedRecord['results'] => results.filter((result) => result.suite === suite);
  const sameCases = Map.groupBy(suites, (suite) => JSON.stringify(rowsOf(suite).map(({ title }) => title)));
  const lists = [...sameCases.values()].map((group) => {
    const lines = rowsOf(group[0] ?? '').map(({ title }, row) => {
      const failed = group.filter((suite) => rowsOf(suite)[row]?.passed !== true);
      return failed.length === 0 ? `- ${title}` : `- **failed** (${failed.join(', ')}): ${title}`;
    });
    return [`### ${group.join(', ')}`, '', ...lines, ''].join('\n');
  });
  const head = `\n## KVM in an emulated host, ${date.slice(0, 10)}\n\n${programs.map((line) => `- ${line}`).join('\n')}\n`;
  return [HEAD, head, ...lists].join('\n').replaceAll('\n\n\n', '\n\n');
}

/** The groups of a whole run; a filtered run must not be published as one. */
const GROUPS = ['Firecracker', 'QEMU', 'proofs of Firecracker', 'proofs of QEMU', 'hosts'];

/**
 * One record with the groups in order, with the oldest run's date.
 * @throws Error if the records cover only a part of the layer
 */
export function wholeOf(records: readonly NestedRecord[]): NestedRecord {
  const [oldest] = records.toSorted((a, b) => a.date.localeCompare(b.date));
  const all = records.flatMap(({ results }) => results);
  const missing = GROUPS.filter((group) => !all.some(({ suite }) => suite === group));
  if (oldest === undefined || missing.length > 0) {
    throw new Error(`the last run was of a part: without ${missing.join(', ')}. Run the layer whole.`);
  }
  const rank = ({ suite }: { suite: string }): number =>
    GROUPS.includes(suite) ? GROUPS.indexOf(suite) : GROUPS.length;
  return { ...oldest, results: all.toSorted((a, b) => rank(a) - rank(b)) };
}

if (import.meta.main) {
  const dir = nestedResults(resolveHome(readConfig(process.env).home).dir);
  const records = readdirSync(dir)
    .filter((name) => name !== 'smoke.json')
    .map((name) => JSON.parse(readFileSync(join(dir, name), 'utf8')) as NestedRecord);
  writeFileSync(PAGE, platformsPage(wholeOf(records)));
}

/** Builds nothing: records the requested builds, reads uploaded archives, and reports what a test specifies. */
import { readFile } from 'node:fs/promises';
import type {
  BuiltTemplate,
  TemplateBuild,
  TemplateBuildEvent,
  TemplateBuilds,
  TemplateSize,
} from '../../src/api/e2b/parts.ts';

export class FakeTemplateBuilds implements TemplateBuilds {
  readonly wanted: TemplateBuild[] = [];
  /** Contents of the archives of COPY, in the order of the steps. */
  readonly archives: Buffer[] = [];
  readonly removed: string[] = [];
  /** Of the files of each build. */
  bytes = 1000;
  readonly names = new Set<string>(['agent', 'base']);
  /** Called for each build, to fail it or to let it wait. */
  onBuild: (wanted: TemplateBuild, say: (event: TemplateBuildEvent) => void, signal: AbortSignal) => Promise<void> =
    async () => undefined;

  async build(
    wanted: TemplateBuild,
    onEvent: (event: TemplateBuildEvent) => void,
    signal: AbortSignal,
  ): Promise<BuiltTemplate> {
    this.wanted.push(wanted);
    for (const [index, step] of wanted.steps.entries()) {
      onEvent({ kind: 'step', step: index + 1, isCached: false });
      if (step.kind === 'copy') this.archives.push(await readFile(step.archive.path));
    }
    await this.onBuild(wanted, onEvent, signal);
    this.names.add(wanted.name);
    const files = { key: wanted.name, bytes: this.bytes };
    return { cpus: 2, memoryMib: 1024, diskMib: 4096, ...wanted.size, files };
  }

  memoryMibOf({ memoryMib = 1024 }: Partial<TemplateSize>): number {
    return memoryMib;
  }

  async remove(name: string): Promise<void> {
    this.names.delete(name);
    this.removed.push(name);
  }

  async has(name: string): Promise<boolean> {
    return this.names.has(name);
  }
}

/** Commands in folders beside `src`, loaded by name: they may use all of `src`, and nothing there imports them. */
import { modulePath } from '../base/module-path.ts';
import type { Cli } from './cli.ts';

export interface BenchFlags {
  readonly rounds?: number;
}

export interface ProveFlags {
  /** Milliseconds. */
  readonly for?: number;
  readonly guests?: number;
}

/** Folder → what its `command.ts` exports. */
interface Beside {
  readonly bench: {
    bench(cli: Cli, names: readonly string[], flags: BenchFlags): Promise<number>;
    /** For `--help`. */
    description(): string;
  };
  readonly prove: {
    prove(cli: Cli, names: readonly string[], flags: ProveFlags): Promise<number>;
    /** For `--help`. */
    description(): string;
  };
}

export async function loadBeside<Name extends keyof Beside>(name: Name): Promise<Beside[Name]> {
  const module: unknown = await import(modulePath(`../../${name}/command.ts`, import.meta.url));
  return module as Beside[Name];
}

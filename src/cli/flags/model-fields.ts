/** Options about the models of a sandbox. */
import { MODEL_PRIORITIES, type ModelCache } from '../../base/request/model-limits.ts';
import { isFieldPath } from '../../base/text/field-path.ts';
import { MIB } from '../../base/units.ts';
import { RANGES } from '../../sandbox/contract/limits.ts';
import type { ModelPolicy } from '../../sandbox/contract/model-policy.ts';
import { UsageError } from '../failure.ts';
import type { OptionText, Row } from './field.ts';
import { BUDGET_FIELD } from './model-budget.ts';
import { parseAliases } from './options.ts';
import { sized, timed } from './ranges.ts';

const ALLOW_FIELD = {
  flags: '--allow-field <path>',
  help: 'let requests to the model carry this field, for example enable_search, unchecked (repeatable)',
  field: 'allowFields',
  parseAll: checkedFields,
} as const satisfies Row<ModelPolicy>;

/** For the daemon, which allows it for all sandboxes. */
export const ALLOW_FIELD_TEXT: OptionText = { ...ALLOW_FIELD, isRepeatable: true };

/** Of a sandbox in the daemon. */
export const DEFAULT_MODEL: Row<ModelPolicy> = {
  flags: '--model <name>',
  help: 'default model of the guest: a name on the model server',
  field: 'defaultModel',
  parse: daemonModel,
};

export const MODEL_FIELDS: readonly Row<ModelPolicy>[] = [
  BUDGET_FIELD,
  {
    flags: '--model-cache <ttl>',
    help: 'answer equal requests from a cache for this time, for example 10m: those with temperature 0 or a seed and no tools, and embeddings; 10m,all: every request (default: none)',
    field: 'cache',
    parse: parseModelCache,
  },
  {
    flags: '--model-priority <priority>',
    help: 'place in the queue of a busy model server: interactive, normal or batch (default: normal)',
    field: 'priority',
    choices: MODEL_PRIORITIES,
  },
  {
    flags: '--alias <ASKED=OFFERED>',
    help: 'serve requests for model ASKED with model OFFERED',
    field: 'aliases',
    parseAll: parseAliases,
  },
  {
    flags: '--allow-model <name>',
    help: 'restrict the guest to this model (repeatable)',
    field: 'allow',
    parseAll: (names) => names,
  },
  {
    flags: '--allow-hosted <name>',
    help: 'let prompts for this model leave the host, if models.toml says that it is served elsewhere; all: for every model (repeatable)',
    field: 'allowHosted',
    parseAll: (names) => names,
  },
  ALLOW_FIELD,
];

function daemonModel(name: string): string {
  if (!/\.gguf$/i.test(name)) return name;
  throw new UsageError(
    'the daemon cannot load a .gguf file for one sandbox',
    'use a model of the daemon, or neurovisor run --model FILE.gguf',
  );
}

/** The values of `--allow-field`. @throws UsageError */
export function checkedFields(paths: readonly string[]): readonly string[] {
  const wrong = paths.find((path) => !isFieldPath(path));
  if (wrong === undefined) return paths;
  throw new UsageError(
    `invalid field "${wrong.slice(0, 80)}" for --allow-field`,
    'name it as the error does, for example enable_search or messages.content.uuid',
  );
}

/** Reads `10m` or `10m,all`. @throws UsageError */
export function parseModelCache(text: string): ModelCache {
  const [ttl = '', requests, ...more] = text.split(',');
  if (more.length > 0 || (requests !== undefined && requests !== 'all')) {
    const remedy = 'use a time, for example 10m, or 10m,all for every request';
    throw new UsageError(`invalid --model-cache "${text.slice(0, 80)}"`, remedy);
  }
  const ttlMs = timed('--model-cache', RANGES.modelCacheTtlMs)(ttl);
  return requests === undefined ? { ttlMs } : { ttlMs, requests };
}

/** MiB */
const cacheSize = sized('--model-cache-size', { min: 1, max: 64 * 1024 });
/** Reads `--model-cache-size` of the daemon: `512M` → bytes; `none` → 0. @throws UsageError */
export const parseCacheSize = (text: string): number => (text === 'none' ? 0 : cacheSize(text) * MIB);

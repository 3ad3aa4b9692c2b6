/** `--model`: a name that the model server offers, or a pulled model or GGUF file for the engine. */
import { existsSync } from 'node:fs';
import type { Config } from '../../base/config.ts';
import { pulledModelPath } from '../../host/runtime/pulled-models/named.ts';
import { modelIdOf, type Upstream } from '../../host/runtime/upstream.ts';
import type { ModelPolicy } from '../../sandbox/contract/model-policy.ts';
import { UsageError } from '../failure.ts';
import { requireModel } from './offered.ts';

export interface ModelChoice {
  /** A GGUF file for the engine. */
  readonly path: string | undefined;
  readonly policy: Partial<ModelPolicy>;
  /** @throws RuntimeError `model_unknown` with the offered names */
  check(upstream: Pick<Upstream, 'description' | 'models' | 'defaultModel'>): void;
}

export function modelChoice(text: string | undefined, config: Config): ModelChoice {
  if (text === undefined) return { path: undefined, policy: {}, check: () => undefined };
  if (/\.gguf$/i.test(text)) {
    if (!existsSync(text)) throw new UsageError(`model file ${text} does not exist`);
    return fileChoice(text);
  }
  const pulled = pulledModelPath(config, text);
  if (pulled !== null) return fileChoice(pulled);
  return {
    path: undefined,
    policy: { defaultModel: text },
    check: (upstream) => {
      const offered = upstream.models ?? [upstream.defaultModel ?? ''];
      requireModel(text, { description: upstream.description, offered }, GGUF_TOO);
    },
  };
}

const fileChoice = (path: string): ModelChoice => ({
  path,
  policy: { defaultModel: modelIdOf(path) },
  check: () => undefined,
});

const GGUF_TOO = ', a pulled model (neurovisor models ls), or the path of a .gguf file';

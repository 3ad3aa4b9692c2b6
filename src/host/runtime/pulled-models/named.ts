/** Resolves a name of `--model` on this host. */
import type { Config } from '../../../base/config.ts';
import { resolveHome } from '../../../base/home.ts';
import { readModelsFile } from '../model-servers/models-file.ts';
import { ModelStore } from './store.ts';

/**
 * The file of a pulled model. `null` if there is none of this name, or the name means something else: names in
 * `models.toml` come first, and a server of NEUROVISOR_UPSTREAM or a remote daemon has its own models.
 * @throws BridgeError `models_file_invalid`
 */
export function pulledModelPath(config: Config, name: string): string | null {
  const isOwnChoice = config.upstream === 'auto' || config.upstream === 'engine';
  if (!isOwnChoice || config.daemonUrl !== null) return null;
  const found = new ModelStore(resolveHome(config.home).cacheDir).find(name);
  if (found === null) return null;
  const file = readModelsFile(config);
  const isNamed = file?.models.has(name) === true || file?.upstreams.some((one) => one.name === name) === true;
  return isNamed ? null : found.path;
}

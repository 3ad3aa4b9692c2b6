/** What a name of `--model` means on this host. */
import type { Config } from '../../../base/config.ts';
import { resolveHome } from '../../../base/home.ts';
import { readModelsFile } from '../model-servers/models-file.ts';
import { ModelStore } from './store.ts';

/**
 * The file of a pulled model. Null: there is none of this name, or the name means something else: what `models.toml` names
 * comes first, and a server of NEUROVISOR_UPSTREAM or a daemon elsewhere has models of its own.
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

import { globSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Returns the model named in the environment, else the one that set-up fetched, else the reason why there is none. */
export function findModel(): { readonly path: string } | string {
  const home = process.env['NEUROVISOR_HOME'] || join(homedir(), '.neurovisor');
  const path = process.env['NEUROVISOR_TEST_MODEL'] ?? globSync(join(home, 'cache/model/*/*.gguf'))[0];
  if (path !== undefined) return { path };
  return 'no model: run `./neurovisor setup` or set NEUROVISOR_TEST_MODEL to a GGUF file';
}

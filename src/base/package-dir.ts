import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

/**
 * The folder with `package.json`: a checkout or the installed npm package. It has everything that is no module:
 * policies, the image's recipe, programs of the guest. Compiled modules are one folder deeper below it than sources.
 */
export const PACKAGE_DIR = packageDir(import.meta.dirname);

function packageDir(dir: string): string {
  return existsSync(join(dir, 'package.json')) ? dir : packageDir(dirname(dir));
}

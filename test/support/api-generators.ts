/** Client generators and the packages of their clients, each pinned by a lock file. */
import { cpSync } from 'node:fs';
import { join } from 'node:path';
import { clientsForNode, clientsForPython, installed, orReason, type PythonPackages, run } from './locked-packages.ts';

export const CLIENTS_DIR = join(import.meta.dirname, '../fixtures/api-clients');
const GENERATOR = 'github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen';

/** Packages for Python, or the reason why there are none. */
export const pythonPackages = (): PythonPackages | string => orReason(() => clientsForPython());

/** A directory with `node_modules`, or the reason why there is none. */
export const nodePackages = (): string | { readonly dir: string } => orReason(() => ({ dir: clientsForNode() }));

/** The generator for Go, or the reason why there is none. */
export const goGenerator = (): string | { readonly generator: string } =>
  orReason(() => {
    // Clients built in an earlier run need it, too.
    run('go', ['version'], CLIENTS_DIR);
    const files = ['go.mod', 'go.sum'].map((name) => join(CLIENTS_DIR, 'go', name));
    const dir = installed('go', files, (target) => {
      const module = join(target, 'module');
      cpSync(join(CLIENTS_DIR, 'go'), module, { recursive: true });
      run('go', ['build', '-o', join(target, 'oapi-codegen'), GENERATOR], module);
    });
    return { generator: join(dir, 'oapi-codegen') };
  });

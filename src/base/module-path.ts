import { fileURLToPath } from 'node:url';

/**
 * The file of a module that is started by its file: a thread's, a process's. It has the ending of the module
 * that starts it: `.ts` in a checkout, `.js` in the npm package.
 * @param path of its source, as an import would say it: `./worker.ts`
 * @param from `import.meta.url` of who starts it
 */
export function modulePath(path: string, from: string): string {
  const ending = from.endsWith('.js') ? '.js' : '.ts';
  return fileURLToPath(new URL(path.replace(/\.ts$/, ending), from));
}

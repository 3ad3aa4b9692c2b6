import { fileURLToPath } from 'node:url';

/**
 * The file of a module that is started by path, as a thread or a process. It has the same ending as its starter: `.ts`
 * in a checkout, `.js` in the npm package.
 * @param path the source, as in an import: `./worker.ts`
 * @param from `import.meta.url` of the starter
 */
export function modulePath(path: string, from: string): string {
  const ending = from.endsWith('.js') ? '.js' : '.ts';
  return fileURLToPath(new URL(path.replace(/\.ts$/, ending), from));
}

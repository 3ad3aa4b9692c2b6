import { fileURLToPath } from 'node:url';

/**
 * Path of a module that is started as a thread or a process. It has the same extension as its starter: `.ts` in a
 * checkout, `.js` in the npm package.
 * @param path the source, as in an import: `./worker.ts`
 * @param from `import.meta.url` of the starter
 */
export function modulePath(path: string, from: string): string {
  const ending = from.endsWith('.js') ? '.js' : '.ts';
  return fileURLToPath(new URL(path.replace(/\.ts$/, ending), from));
}

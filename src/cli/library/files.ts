/** Files of a sandbox. Each call gets the guest anew, since a pause may have replaced it. */
import { errorCode } from '../../base/errors.ts';
import type { Guest, GuestFiles, GuestReader } from '../../machine/guest/link.ts';
import { withAbort } from './abort.ts';

/** @param reader for a pause whose files this version can only read */
export function filesOf(guest: () => Promise<Guest>, reader: () => Promise<GuestReader>): GuestFiles {
  const toRead = async (): Promise<GuestReader> => {
    try {
      return await guest();
    } catch (error) {
      if (errorCode(error) !== 'snapshot_foreign') throw error;
      return await reader();
    }
  };
  const reads = <T>(
    options: { readonly signal?: AbortSignal } | undefined,
    use: (files: GuestReader['files']) => Promise<T>,
  ): Promise<T> => withAbort(options?.signal, async () => await use((await toRead()).files));
  const files = <T>(
    options: { readonly signal?: AbortSignal } | undefined,
    use: (files: GuestFiles) => Promise<T>,
  ): Promise<T> => withAbort(options?.signal, async () => await use((await guest()).files));
  return {
    read: (path, options) => reads(options, (to) => to.read(path, options)),
    open: (path, options) => reads(options, (to) => to.open(path, options)),
    readAll: (path, options) => reads(options, (to) => to.readAll(path, options)),
    write: (path, content, options) => files(options, (to) => to.write(path, content, options)),
    stat: (path, options) => reads(options, (to) => to.stat(path, options)),
    list: (path, options) => reads(options, (to) => to.list(path, options)),
    async *entries(path, options) {
      yield* (await toRead()).files.entries(path, options);
    },
    move: (from, target, options) => files(options, (to) => to.move(from, target, options)),
    remove: (path, options) => files(options, (to) => to.remove(path, options)),
    makeDirectory: (path, options) => files(options, (to) => to.makeDirectory(path, options)),
    watch: (path, options, listener) => files(options, (to) => to.watch(path, options, listener)),
  };
}

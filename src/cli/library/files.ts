/** Files of a sandbox. Each call gets the guest anew, since a pause may have replaced it. */
import type { Guest, GuestFiles } from '../../machine/guest/link.ts';
import { withAbort } from './abort.ts';

export function filesOf(guest: () => Promise<Guest>): GuestFiles {
  const files = <T>(
    options: { readonly signal?: AbortSignal } | undefined,
    use: (files: GuestFiles) => Promise<T>,
  ): Promise<T> => withAbort(options?.signal, async () => await use((await guest()).files));
  return {
    read: (path, options) => files(options, (to) => to.read(path, options)),
    open: (path, options) => files(options, (to) => to.open(path, options)),
    readAll: (path, options) => files(options, (to) => to.readAll(path, options)),
    write: (path, content, options) => files(options, (to) => to.write(path, content, options)),
    stat: (path, options) => files(options, (to) => to.stat(path, options)),
    list: (path, options) => files(options, (to) => to.list(path, options)),
    async *entries(path, options) {
      yield* (await guest()).files.entries(path, options);
    },
    move: (from, target, options) => files(options, (to) => to.move(from, target, options)),
    remove: (path, options) => files(options, (to) => to.remove(path, options)),
    makeDirectory: (path, options) => files(options, (to) => to.makeDirectory(path, options)),
    watch: (path, options, listener) => files(options, (to) => to.watch(path, options, listener)),
  };
}

/** Files of a sandbox. Each call gets the guest anew, since a pause may have replaced it. */
import type { Guest, GuestFiles } from '../guest/link.ts';

export function filesOf(guest: () => Promise<Guest>): GuestFiles {
  return {
    read: async (path, options) => await (await guest()).files.read(path, options),
    readAll: async (path, options) => await (await guest()).files.readAll(path, options),
    write: async (path, content, options) =>
      await (await guest()).files.write(path, content, options),
    stat: async (path, options) => await (await guest()).files.stat(path, options),
    list: async (path, options) => await (await guest()).files.list(path, options),
    async *entries(path, options) {
      yield* (await guest()).files.entries(path, options);
    },
    move: async (from, to, options) => await (await guest()).files.move(from, to, options),
    remove: async (path, options) => await (await guest()).files.remove(path, options),
    makeDirectory: async (path, options) =>
      await (await guest()).files.makeDirectory(path, options),
    watch: async (path, options, listener) =>
      await (await guest()).files.watch(path, options, listener),
  };
}

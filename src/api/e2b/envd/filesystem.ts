/** `filesystem.Filesystem` of E2B's envd. */
import { z } from 'zod';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { FileEvent, FileWatch } from '../../../machine/guest/guest.ts';
import { isGuestError } from '../../rest/errors.ts';
import { E2B_LIMITS } from '../limits.ts';
import { type Call, fileUser, keepAliveOf } from './call.ts';
import { ConnectError, checked } from './connect.ts';
import { entryView } from './entry.ts';
import type { Outlet } from './service.ts';
import type { Watchers } from './watchers.ts';

const path = z.string().min(1).max(4096);
const watchRequest = z.object({
  path,
  recursive: z.boolean().default(false),
  includeEntry: z.boolean().default(false),
  // Network mounts are nothing special in our guests.
  allowNetworkMounts: z.boolean().default(false),
});
const watcherRequest = z.object({ watcherId: z.string().max(256) });

export class FilesystemService {
  readonly #watchers: Watchers;

  constructor(watchers: Watchers) {
    this.#watchers = watchers;
  }

  async stat(call: Call, message: unknown): Promise<unknown> {
    const wanted = checked(z.object({ path }), message);
    const { files } = await call.reader();
    return { entry: entryView(await files.stat(wanted.path, userOption(call))) };
  }

  async makeDir(call: Call, message: unknown): Promise<unknown> {
    const wanted = checked(z.object({ path }), message);
    const { files } = await call.guest();
    try {
      return { entry: entryView(await files.makeDirectory(wanted.path, userOption(call))) };
    } catch (error) {
      if (!isGuestError(error) || error.code !== 'already_exists') throw error;
      const { type, target } = await files.stat(wanted.path, userOption(call));
      const word = (target?.type ?? type) === 'directory' ? 'already_exists' : 'invalid_argument';
      const what = word === 'already_exists' ? 'directory already exists' : 'path is not a directory';
      throw new ConnectError(word, `${what}: ${wanted.path}`, { cause: error });
    }
  }

  async move(call: Call, message: unknown): Promise<unknown> {
    const { source, destination } = checked(z.object({ source: path, destination: path }), message);
    const { files } = await call.guest();
    return { entry: entryView(await files.move(source, destination, userOption(call))) };
  }

  async listDir(call: Call, message: unknown): Promise<unknown> {
    const schema = z.object({ path, depth: z.number().int().min(0).default(0) });
    const { path: directory, depth } = checked(schema, message);
    const { files } = await call.reader();
    const options = { ...userOption(call), depth: Math.min(DEPTH_MAX, Math.max(1, depth)) };
    const entry = await files.stat(directory, userOption(call));
    const type = entry.target?.type ?? entry.type;
    if (type !== 'directory') {
      throw new ConnectError('invalid_argument', `path is not a directory: ${directory}`);
    }
    return { entries: (await files.list(directory, options)).map(entryView) };
  }

  async remove(call: Call, message: unknown): Promise<unknown> {
    const wanted = checked(z.object({ path }), message);
    const { files } = await call.guest();
    try {
      await files.remove(wanted.path, userOption(call));
    } catch (error) {
      if (!isGuestError(error) || error.code !== 'not_found') throw error;
    }
    return {};
  }

  async watchDir(call: Call, message: unknown, outlet: Outlet): Promise<void> {
    const pending = new PendingEvents(outlet);
    const watch = await this.#watch(call, message, (view) => pending.add(view));
    try {
      outlet.keepAlive(keepAliveOf(call.request), { keepalive: {} });
      await outlet.send({ start: {} });
      pending.start();
      const overflow = await Promise.race([watch.ended, outlet.gone, pending.failed]);
      if (overflow === 'too many') {
        throw new ConnectError('resource_exhausted', 'the client reads too slowly for the events');
      }
    } finally {
      watch.stop();
    }
    throw new ConnectError('unavailable', 'the watch has ended');
  }

  async createWatcher(call: Call, message: unknown): Promise<unknown> {
    const watcherId = await this.#watchers.create(call.id, async (add) => await this.#watch(call, message, add));
    return { watcherId };
  }

  async getWatcherEvents(call: Call, message: unknown): Promise<unknown> {
    const { watcherId } = checked(watcherRequest, message);
    return await Promise.resolve({ events: this.#watchers.take(call.id, watcherId) });
  }

  async removeWatcher(call: Call, message: unknown): Promise<unknown> {
    this.#watchers.remove(call.id, checked(watcherRequest, message).watcherId);
    return await Promise.resolve({});
  }

  async #watch(call: Call, message: unknown, add: (view: unknown) => void): Promise<FileWatch> {
    const { path: directory, recursive, includeEntry } = checked(watchRequest, message);
    const { files } = await call.guest();
    const options = { ...userOption(call), recursive };
    // Keeps events in order although each may wait for its entry.
    let last: Promise<void> = Promise.resolve();
    let waiting = 0;
    // A guest that does not return an entry may still send events.
    let characters = 0;
    const enqueue = (size: number, act: () => void | Promise<void>): void => {
      if (characters + size > E2B_LIMITS.watcherCharactersMax) return;
      characters += size;
      last = last.then(act).finally(() => {
        characters -= size;
      });
    };
    return await files.watch(directory, options, (event) => {
      const view = eventView(event);
      if (view === null) return;
      const size = JSON.stringify(view).length;
      if (!includeEntry || !HAS_ENTRY.has(event.type) || waiting >= ENTRIES_WAITING_MAX) {
        enqueue(size, () => add(view));
        return;
      }
      if (characters + size > E2B_LIMITS.watcherCharactersMax) return;
      waiting += 1;
      enqueue(size, async () => {
        try {
          const at = `${directory.replace(/\/+$/, '')}/${event.name}`;
          add({ ...view, entry: entryView(await files.stat(at, userOption(call))) });
        } catch (error) {
          ignore(error, `the file has gone again: ${describeError(error)}`);
          add(view);
        } finally {
          waiting -= 1;
        }
      });
    });
  }
}

const DEPTH_MAX = 32;
const ENTRIES_WAITING_MAX = 64;
const EVENTS_WAITING_MAX = 10_000;
const HAS_ENTRY: ReadonlySet<FileEvent['type']> = new Set(['create', 'write', 'chmod']);

/** Events for a client that may read slowly. Above the limit, the stream ends. */
class PendingEvents {
  readonly #outlet: Outlet;
  readonly #waiting: { readonly view: unknown; readonly characters: number }[] = [];
  #characters = 0;
  readonly #failed = Promise.withResolvers<'too many'>();
  #isSending = true;
  readonly failed = this.#failed.promise;

  constructor(outlet: Outlet) {
    this.#outlet = outlet;
  }

  add(view: unknown): void {
    const characters = JSON.stringify(view).length;
    const isFull = this.#waiting.length >= EVENTS_WAITING_MAX;
    if (isFull || this.#characters + characters > E2B_LIMITS.watcherCharactersMax) {
      this.#failed.resolve('too many');
    } else {
      this.#waiting.push({ view, characters });
      this.#characters += characters;
    }
    if (!this.#isSending) this.start();
  }

  /** Sends the waiting events, and later ones as they arrive. */
  start(): void {
    this.#isSending = true;
    this.#send().catch((error: unknown) => ignore(error, 'the client has gone'));
  }

  async #send(): Promise<void> {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      this.#characters -= next.characters;
      await this.#outlet.send({ filesystem: next.view });
    }
    this.#isSending = false;
  }
}

const userOption = ({ user }: Call): ReturnType<typeof fileUser> => fileUser(user);

const EVENTS: Readonly<Record<FileEvent['type'], string | null>> = {
  create: 'EVENT_TYPE_CREATE',
  write: 'EVENT_TYPE_WRITE',
  remove: 'EVENT_TYPE_REMOVE',
  rename: 'EVENT_TYPE_RENAME',
  chmod: 'EVENT_TYPE_CHMOD',
  // E2B has no message for lost events.
  overflow: null,
};

function eventView({ type, name }: FileEvent): { name: string; type: string } | null {
  const word = EVENTS[type];
  return word === null ? null : { name, type: word };
}

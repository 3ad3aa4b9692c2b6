/** Events of all sandboxes of a daemon, on disk, and their webhooks. */
import type { Clock } from '../../../base/clock.ts';
import type { Log } from '../../../base/log.ts';
import { EventJournal } from './journal.ts';
import { type LifecycleNotes, type LifecycleParts, noteLifecycle } from './lifecycle.ts';
import type { Events } from './routes.ts';
import { type PostEvent, Webhooks } from './webhooks.ts';

/** Records nothing before `begin`: see `LifecycleNotes`. */
export function openEvents(parts: {
  readonly path: string;
  readonly control: LifecycleParts['control'];
  readonly clock: Clock;
  readonly log: Log;
  readonly post: PostEvent;
}): Events & Pick<LifecycleNotes, 'begin'> & AsyncDisposable {
  const { path, control, clock, log, post } = parts;
  const journal = new EventJournal(path);
  const webhooks = new Webhooks({ journal, clock, log, post });
  const notes = noteLifecycle({ control, journal, clock, log, onEvent: (event) => webhooks.wake(event) });
  return {
    journal,
    webhooks,
    begin: () => notes.begin(),
    async [Symbol.asyncDispose]() {
      notes.stop();
      await webhooks[Symbol.asyncDispose]();
      journal[Symbol.dispose]();
    },
  };
}

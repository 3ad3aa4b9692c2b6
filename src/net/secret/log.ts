/** What is told of the secrets of one sandbox: where each went, and where only its placeholder did. */
import type { Log } from '../../base/log.ts';
import type { SecretUse } from './connection.ts';

/** Of placeholders that went elsewhere: a guest can name any number of hosts. */
const UNFILLED_MAX = 256;

export class SecretLog {
  readonly #log: Log;
  /** No more than there are secrets and hosts of theirs. */
  readonly #filled = new Set<string>();
  readonly #unfilled = new Set<string>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** The first time that a secret is used at a host; later ones for those who look closely. */
  note({ sandboxId: sandbox, kind, names, host }: SecretUse & { sandboxId: string }): void {
    for (const name of names) {
      if (kind === 'filled') {
        const isNew = isAdded(this.#filled, `${name} ${host}`, Number.POSITIVE_INFINITY);
        this.#log[isNew ? 'info' : 'debug'](`secret ${name} was sent to ${host}`, { sandbox });
      } else {
        const isNew = isAdded(this.#unfilled, `${name} ${host}`, UNFILLED_MAX);
        const what = `the placeholder of ${name} was sent to ${host}, and left as it is`;
        this.#log[isNew ? 'warn' : 'debug'](what, { sandbox });
      }
    }
  }
}

function isAdded(known: Set<string>, what: string, max: number): boolean {
  if (known.has(what) || known.size >= max) return false;
  known.add(what);
  return true;
}

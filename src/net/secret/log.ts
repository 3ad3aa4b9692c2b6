/** Logs where each secret of a sandbox was sent, and where only its placeholder was. */
import type { Log } from '../../base/log.ts';
import type { SecretUse } from './connection.ts';

/** Remembered uses of placeholders at other hosts: a guest can name any number of hosts. */
const UNFILLED_MAX = 256;

export class SecretLog {
  readonly #log: Log;
  /** At most secrets times their hosts. */
  readonly #filled = new Set<string>();
  readonly #unfilled = new Set<string>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Logs the first use of a secret at a host as info, later ones as debug. */
  note({ sandboxId: sandbox, kind, names, host }: SecretUse & { sandboxId: string }): void {
    for (const name of names) {
      if (kind === 'filled') {
        const isNew = isAdded(this.#filled, `${name} ${host}`, Number.POSITIVE_INFINITY);
        this.#log[isNew ? 'info' : 'debug'](`secret ${name} was sent to ${host}`, { sandbox });
      } else {
        const isNew = isAdded(this.#unfilled, `${name} ${host}`, UNFILLED_MAX);
        const what = `the placeholder of ${name} was sent to ${host} unchanged`;
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

/** Logs where each secret of a sandbox was sent, where only its placeholder was, and what was refused. */
import type { Log } from '../../base/log.ts';
import type { SecretUse } from './connection.ts';

/** Remembered uses of placeholders at other hosts: a guest can name any number of hosts. */
const UNFILLED_MAX = 256;

export class SecretLog {
  readonly #log: Log;
  /** At their own hosts: at most three times secrets times their hosts. */
  readonly #own = new Set<string>();
  readonly #unfilled = new Set<string>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Logs the first use of a secret at a host as info, the first failed one as a warning, later ones as debug. */
  note({ sandboxId: sandbox, kind, names, host, why }: SecretUse & { sandboxId: string }): void {
    for (const name of names) {
      const [known, max] =
        kind === 'unfilled'
          ? [this.#unfilled, UNFILLED_MAX]
          : [this.#own, Number.POSITIVE_INFINITY];
      const isNew = isAdded(known, `${kind} ${name} ${host}`, max);
      const level = kind === 'filled' || kind === 'without_cookies' ? 'info' : 'warn';
      this.#log[isNew ? level : 'debug'](textOf(kind, name, host), {
        sandbox,
        ...(why === undefined ? {} : { why }),
      });
    }
  }
}

function textOf(kind: SecretUse['kind'], name: string, host: string): string {
  switch (kind) {
    case 'filled':
      return `secret ${name} was sent to ${host}`;
    case 'unfilled':
      return `the placeholder of ${name} was sent to ${host} unchanged`;
    case 'unplaced':
      return `a request to ${host} with the placeholder of ${name} was refused`;
    case 'without_cookies':
      return `a request with secret ${name} was sent to ${host} without its cookies`;
  }
}

function isAdded(known: Set<string>, what: string, max: number): boolean {
  if (known.has(what) || known.size >= max) return false;
  known.add(what);
  return true;
}

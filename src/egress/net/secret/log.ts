/** Logs where each secret of a sandbox was sent, where only its placeholder was, and what was refused. */
import type { Log } from '../../../base/log.ts';
import type { SecretUse } from './connection.ts';

/**
 * Limit of remembered first uses by kind: a guest can name any number of hosts, even below the `*.name` of a secret.
 */
const KNOWN_MAX: Readonly<Record<SecretUse['kind'], number>> = {
  filled: 1024,
  unfilled: 256,
  unplaced: 1024,
  without_cookies: 1024,
};

export class SecretLog {
  readonly #log: Log;
  readonly #known: Readonly<Record<SecretUse['kind'], Set<string>>> = {
    filled: new Set(),
    unfilled: new Set(),
    unplaced: new Set(),
    without_cookies: new Set(),
  };

  constructor(log: Log) {
    this.#log = log;
  }

  /** Logs the first use of a secret at a host as info, the first failed one as a warning, later ones as debug. */
  note({ sandboxId: sandbox, kind, names, host, why }: SecretUse & { sandboxId: string }): void {
    for (const name of names) {
      const isNew = isAdded(this.#known[kind], `${name} ${host}`, KNOWN_MAX[kind]);
      const level = kind === 'filled' || kind === 'without_cookies' ? 'info' : 'warn';
      this.#log[isNew ? level : 'debug'](textOf(kind, name, host), { sandbox, ...(why === undefined ? {} : { why }) });
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

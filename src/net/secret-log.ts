/** What is told of the secrets of one sandbox: where each went, and where only its placeholder did. */
import type { Log } from '../base/log.ts';
import type { SecretUse } from './secret-connection.ts';

/** A guest can name any number of hosts. */
const KNOWN_MAX = 256;

export class SecretLog {
  readonly #log: Log;
  readonly #known = new Set<string>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** The first time that a secret is used at a host; later ones for those who look closely. */
  note({ sandboxId: sandbox, kind, names, host }: SecretUse & { sandboxId: string }): void {
    for (const name of names) {
      const what =
        kind === 'filled'
          ? `secret ${name} was sent to ${host}`
          : `the placeholder of ${name} was sent to ${host}, and left as it is`;
      const isNew = this.#known.size < KNOWN_MAX && !this.#known.has(what);
      if (isNew) this.#known.add(what);
      if (isNew && kind === 'unfilled') this.#log.warn(what, { sandbox });
      else if (isNew) this.#log.info(what, { sandbox });
      else this.#log.debug(what, { sandbox });
    }
  }
}

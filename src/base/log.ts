/**
 * The logger of a part. `error`: a requested action failed; `warn`: odd but served;
 * `info`: rare state change; `debug`: repeated. Never once per packet.
 */
export interface Log {
  error(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  debug(message: string, fields?: LogFields): void;
}

export type LogFields = Readonly<Record<string, string | number | boolean | null | undefined>>;

const nothing = (): void => undefined;

export const silentLog: Log = { error: nothing, warn: nothing, info: nothing, debug: nothing };

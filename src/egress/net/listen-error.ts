import { CodedError, errorCode } from '../../base/errors.ts';

type ListenErrorCode =
  /** Another program has the address and port. */
  | 'address_in_use'
  /** The address is not one of this machine. */
  | 'address_missing'
  | 'not_permitted'
  | 'listen_failed';

/** A server for guests (DNS, gateway) could not bind its address. */
export class ListenError extends CodedError<ListenErrorCode> {}

export function listenError(what: string, address: string, port: number, cause: unknown): ListenError {
  const message = `listen for ${what} on ${address} port ${port}`;
  switch (errorCode(cause)) {
    case 'EADDRINUSE':
      return new ListenError('address_in_use', message, {
        cause,
        remedy: 'Stop the program that listens there, or choose another port.',
      });
    case 'EADDRNOTAVAIL':
      return new ListenError('address_missing', message, { cause, remedy: 'Choose an address of this machine.' });
    case 'EACCES':
    case 'EPERM':
      return new ListenError('not_permitted', message, {
        cause,
        remedy: 'Choose a port of at least 1024, or run with CAP_NET_BIND_SERVICE.',
      });
    default:
      return new ListenError('listen_failed', message, { cause });
  }
}

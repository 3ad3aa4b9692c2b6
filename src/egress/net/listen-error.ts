import { CodedError, errorCode } from '../../base/errors.ts';

type ListenErrorCode = 'address_in_use' | 'address_missing' | 'not_permitted' | 'listen_failed';

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

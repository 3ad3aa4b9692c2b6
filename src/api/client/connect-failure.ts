/** Turns a failed connection to a daemon into an error with a remedy. Pure. */
import { errorCode } from '../../base/errors.ts';
import { ClientError } from './errors.ts';

export type DaemonPlace = { readonly socketPath: string } | { readonly url: URL };

const FORBIDDEN: ReadonlySet<string> = new Set(['EACCES', 'EPERM']);
const UNREACHABLE: ReadonlySet<string> = new Set([
  'ENOENT',
  'ECONNREFUSED',
  'ENOTSOCK',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ETIMEDOUT',
]);
const LOOPBACK: ReadonlySet<string> = new Set(['127.0.0.1', 'localhost', '[::1]']);

const USE_AUTHORITY = 'set NEUROVISOR_CA to the PEM file of the authority that issued it';
const UNTRUSTED = ['is not of an authority that this machine trusts', USE_AUTHORITY] as const;
/** What is wrong with a certificate, and the remedy, by OpenSSL's and Node's codes. */
const CERTIFICATE_FAULTS: Readonly<Record<string, readonly [fault: string, remedy: string]>> = {
  UNABLE_TO_GET_ISSUER_CERT: UNTRUSTED,
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: UNTRUSTED,
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: UNTRUSTED,
  SELF_SIGNED_CERT_IN_CHAIN: UNTRUSTED,
  DEPTH_ZERO_SELF_SIGNED_CERT: UNTRUSTED,
  CERT_SIGNATURE_FAILURE: UNTRUSTED,
  CERT_UNTRUSTED: UNTRUSTED,
  INVALID_CA: UNTRUSTED,
  CERT_HAS_EXPIRED: ['has expired', "renew its files, which the daemon reads again, or correct this machine's clock"],
  CERT_NOT_YET_VALID: ['is not valid yet', "correct this machine's clock, or wait"],
  CERT_REVOKED: ['was revoked', 'give the daemon another one'],
  ERR_TLS_CERT_ALTNAME_INVALID: ['is for other names', 'use a name that it has, in NEUROVISOR_URL'],
};
const NAMES_CHARACTERS_MAX = 200;

/** @param cause Node's error while connecting, sending or reading the answer */
export function connectFailure(cause: unknown, place: DaemonPlace): ClientError {
  const code = errorCode(cause) ?? '';
  const isSocket = 'socketPath' in place;
  const where = isSocket ? place.socketPath : place.url.origin;
  if (isSocket && FORBIDDEN.has(code)) {
    return new ClientError('unauthorized', `no permission to use the daemon at ${where}`, {
      cause,
      remedy: 'run as the user who started it, or set NEUROVISOR_HOME to your own directory',
    });
  }
  if (UNREACHABLE.has(code) || FORBIDDEN.has(code)) {
    const remedy = isSocket ? 'start one: neurovisor serve' : remedyOfUrl(place.url);
    return new ClientError('daemon_unreachable', `no daemon is running at ${where}`, { cause, remedy });
  }
  const fault = Object.hasOwn(CERTIFICATE_FAULTS, code) ? CERTIFICATE_FAULTS[code] : undefined;
  if (fault !== undefined) {
    const message = `the certificate of the daemon at ${where} ${fault[0]}${certifiedNames(cause)}`;
    return new ClientError('certificate_invalid', message, { remedy: fault[1] });
  }
  if (code.startsWith('ERR_SSL_') || code === 'EPROTO') {
    const message = `what answers at ${where} does not speak TLS`;
    return new ClientError('address_invalid', message, { cause, remedy: 'use http:// if the daemon has no TLS' });
  }
  const isPlain = !isSocket && place.url.protocol === 'http:';
  return new ClientError('daemon_lost', `lost the connection to the daemon at ${where}`, {
    cause,
    remedy: `restart it: neurovisor serve${isPlain ? '; or use https:// if it has TLS' : ''}`,
  });
}

function certifiedNames(cause: unknown): string {
  const names: unknown = (cause as { readonly cert?: { readonly subjectaltname?: unknown } }).cert?.subjectaltname;
  return typeof names === 'string' ? `: ${names.slice(0, NAMES_CHARACTERS_MAX)}` : '';
}

function remedyOfUrl({ hostname, port, protocol }: URL): string {
  const isTls = protocol === 'https:';
  const tls = isTls ? ' --tls-cert … --tls-key …' : '';
  const start = `neurovisor serve --port ${port === '' ? (isTls ? 443 : 80) : port}${tls}`;
  const there = LOOPBACK.has(hostname) ? '' : ' on that machine';
  return `check the address (NEUROVISOR_URL), or start a daemon${there}: ${start}`;
}

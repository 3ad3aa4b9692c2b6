/** Maps failures of `nft` to typed errors. Pure. */
import { errorCode } from '../../../base/errors.ts';
import { NetError } from '../errors.ts';

/** Lines of `nft`'s text in an error: it repeats itself for each object that depends on a missing one. */
const ERROR_LINES_MAX = 6;
const ERROR_LINE_CHARACTERS_MAX = 300;

/** The exit status is 1 for every failure, so only the text shows missing rights. */
export function nftRefusal(verb: string, text: string): NetError {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const short = lines.slice(0, ERROR_LINES_MAX).map((l) => l.slice(0, ERROR_LINE_CHARACTERS_MAX));
  const cause = new Error(short.length === 0 ? 'no output' : short.join('\n'));
  if (/Operation not permitted|Permission denied/.test(text)) {
    return new NetError('nft_not_permitted', `${verb} the packet filter: not permitted`, {
      cause,
      remedy: 'Run NeuroVisor as root or with CAP_NET_ADMIN, or create the sandbox without a network.',
    });
  }
  return new NetError('nft_refused', `${verb} the packet filter: nft refused`, { cause });
}

export function nftFailure(verb: string, cause: unknown): NetError {
  const isOutOfFds = ['EMFILE', 'ENFILE'].includes(errorCode(cause) ?? '');
  const remedy = 'Raise the limit of open files: ulimit -n, or LimitNOFILE= of the service.';
  return new NetError('nft_failed', `${verb} the packet filter: nft failed`, {
    cause,
    ...(isOutOfFds ? { remedy } : {}),
  });
}

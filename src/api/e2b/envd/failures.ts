/** Converts failures of guests and sandboxes to errors of the Connect protocol. */

import { CodedError, describeError } from '../../../base/errors.ts';
import type { GuestError, GuestErrorCode } from '../../../machine/guest/errors.ts';
import { BusyError } from '../../../sandbox/contract/errors.ts';
import { isGuestError } from '../../rest/errors.ts';
import { type ConnectCode, ConnectError } from './connect.ts';

const GUEST: Record<GuestErrorCode, ConnectCode> = {
  invalid_request: 'invalid_argument',
  permission_denied: 'permission_denied',
  not_found: 'not_found',
  already_exists: 'already_exists',
  suspended: 'unavailable',
  too_large: 'invalid_argument',
  cancelled: 'canceled',
  hello_refused: 'unavailable',
  protocol_error: 'internal',
  connection_lost: 'unavailable',
  guest_failed: 'internal',
  exhausted: 'resource_exhausted',
  timeout: 'unavailable',
  hello_timeout: 'unavailable',
  disk_full: 'resource_exhausted',
};

/** The agent's words. */
const UNKNOWN_USER = /^user '.*' does not exist in the guest$/s;

/** E2B answers an unknown user like a wrong token. */
export const isUnknownUser = (error: unknown): error is GuestError =>
  isGuestError(error) && error.code === 'not_found' && UNKNOWN_USER.test(error.message);

/** `null` for a bug. */
export function connectErrorOf(error: unknown): ConnectError | null {
  if (error instanceof ConnectError) return error;
  if (isUnknownUser(error)) return new ConnectError('unauthenticated', error.message);
  if (isGuestError(error)) return new ConnectError(GUEST[error.code], describeError(error));
  if (error instanceof BusyError) return new ConnectError('resource_exhausted', describeError(error));
  if (error instanceof CodedError) return new ConnectError('unavailable', describeError(error));
  return null;
}

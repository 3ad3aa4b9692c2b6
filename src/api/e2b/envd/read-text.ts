/** The body of a unary call. */
import type { IncomingMessage } from 'node:http';
import type { Clock } from '../../../base/clock.ts';
import { withIdleLimit } from '../../rest/body.ts';
import { E2B_LIMITS } from '../limits.ts';
import { ConnectError } from './connect.ts';

/** @throws ConnectError `resource_exhausted`; ApiError `request_timeout` */
export async function readText(request: IncomingMessage, clock: Clock): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of withIdleLimit(request, clock)) {
    bytes += part.length;
    if (bytes > E2B_LIMITS.messageBytesMax) {
      const message = `the message has more than ${E2B_LIMITS.messageBytesMax} bytes`;
      throw new ConnectError('resource_exhausted', message);
    }
    parts.push(part);
  }
  return Buffer.concat(parts).toString();
}

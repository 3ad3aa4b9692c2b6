/** Opens connections to the agent's operations: any byte stream that starts with `OK <n>`. */
import { connect } from 'node:net';
import { Duplex, PassThrough, Transform } from 'node:stream';
import { ignore, tryOr } from '../../base/ignore.ts';
import { LineDecoder } from './framing.ts';
import { GUEST_LIMITS, PORTS } from './limits.ts';

/**
 * Opens a connection for one operation. The stream must support half-closes, and accept writes immediately. A rejection
 * or an error of the stream fails the operation; a GuestError is passed through unchanged.
 * @param signal aborts when the connection is no longer wanted
 */
export type Dial = (signal?: AbortSignal) => Duplex | Promise<Duplex>;

/** Dials through the channel's unix socket on this machine (`spec/guest-protocol.md`, section 1). */
export function dialChannel(channelPath: string): () => Duplex {
  return () => {
    const socket = connect({ path: channelPath, allowHalfOpen: true });
    socket.write(`CONNECT ${PORTS.operations}\n`);
    return socket;
  };
}

/** Which operations pass. */
export type OperationAccess = 'all' | 'reads';

const READS: ReadonlySet<unknown> = new Set(['read', 'stat', 'list']);

/** Passes an operation that reads files, and answers any other with `permission_denied`. @param guest just dialed */
export function readsOnly(guest: Duplex): Duplex {
  const requests = new LineDecoder(GUEST_LIMITS.requestLineBytesMax);
  const answers = new PassThrough();
  const greeted = new Promise((resolve) => guest.once('data', resolve));
  let passes = false;
  let isRefused = false;
  const asked = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      if (passes) return done(null, chunk);
      const request = requests.receive(chunk);
      if (request.ok && request.line === null) return done();
      if (request.ok && isRead(request.line)) {
        passes = true;
        return done(null, Buffer.concat([request.line, NEWLINE, request.rest]));
      }
      // After the channel's OK. Nothing more is read.
      void greeted.then(() => {
        isRefused = true;
        guest.unpipe(answers).destroy();
        answers.end(REFUSAL);
      });
    },
  });
  const both = Duplex.from({ writable: asked, readable: answers });
  guest.on('error', (error) => ignore(error, 'reported by the close that follows'));
  guest.on('close', () => {
    if (!guest.readableEnded && !isRefused) both.destroy();
  });
  both.on('error', (error) => ignore(error, 'its user gets it'));
  both.on('close', () => guest.destroy());
  asked.pipe(guest).pipe(answers);
  return both;
}

/** No read is so long that its fields follow its line, where they could name another operation. */
function isRead(line: Buffer): boolean {
  const request = tryOr(null, 'the request is refused', () => JSON.parse(line.toString()) as unknown);
  const fields: { readonly op?: unknown; readonly moreBytes?: unknown } = request ?? {};
  return READS.has(fields.op) && fields.moreBytes === undefined;
}

const NEWLINE = Buffer.from('\n');
const REFUSAL = `${JSON.stringify({
  ok: false,
  code: 'permission_denied',
  message:
    'another version paused this sandbox, so its files can only be read; to change them, use that version, or copy ' +
    'them into a new sandbox',
})}\n`;

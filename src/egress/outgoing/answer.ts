/** An answer to a request of this host, whose server may be hostile (io). */
import { pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import type { Dispatcher } from 'undici';
import { ignore } from '../../base/ignore.ts';
import { OutgoingError } from './errors.ts';

export interface Answer {
  /** Where redirects led. */
  readonly url: URL;
  readonly status: number;
  /** The first field of this name, which is in lower case. */
  header(name: string): string | undefined;
  /**
   * The body, decompressed. Ends with an OutgoingError or the signal's reason if it is cut, silent, late, or larger
   * than the limit.
   */
  bytes(bytesMax: number): AsyncIterable<Buffer>;
  /** Closes the connection, unless the body has been read. */
  destroy(): void;
  /** Calls `run` when the body was read or destroyed. */
  onClose(run: () => void): void;
}

/** @param toError makes the error for the reader of the body */
export function answerOf(
  url: URL,
  { statusCode, headers, body }: Dispatcher.ResponseData,
  toError: (error: unknown) => unknown,
): Answer {
  body.on('error', (error) => ignore(error, 'the reader of the body, if there is one, gets it'));
  const header = (name: string): string | undefined => [headers[name]].flat()[0];
  async function* bytes(bytesMax: number): AsyncIterable<Buffer> {
    const isPacked = header('content-encoding') === 'gzip';
    const unpacked = isPacked ? pipeline(body, createGunzip(), () => undefined) : body;
    let count = 0;
    try {
      for await (const chunk of unpacked as AsyncIterable<Buffer>) {
        count += chunk.length;
        if (count > bytesMax) throw new OutgoingError('invalid', `the body is larger than ${bytesMax} bytes`);
        yield chunk;
      }
    } catch (error) {
      throw toError(error);
    } finally {
      body.destroy();
    }
  }
  return {
    url,
    status: statusCode,
    header,
    bytes,
    destroy: () => void body.destroy(),
    onClose: (run) => void body.once('close', run),
  };
}

/** A chat completions client for benchmarks, with kept connections. */
import { Agent, type IncomingMessage, request } from 'node:http';

/** A socket, or a port of loopback. */
export type Place = { readonly socketPath: string } | { readonly host: '127.0.0.1'; readonly port: number };

export class ChatClient implements Disposable {
  readonly #place: Place;
  readonly #agent = new Agent({ keepAlive: true });

  constructor(place: Place) {
    this.#place = place;
  }

  /**
   * Resolves with the head of the answer.
   * @throws if its status is not 200, or the signal's reason
   */
  post(body: string, signal?: AbortSignal): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const outgoing = request({
        ...this.#place,
        agent: this.#agent,
        method: 'POST',
        path: '/v1/chat/completions',
        headers: {
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          authorization: 'Bearer neurovisor',
        },
        ...(signal === undefined ? {} : { signal }),
      });
      outgoing.once('response', (response) => {
        if (response.statusCode === 200) resolve(response);
        else {
          response.resume();
          reject(new Error(`the benchmark's request got status ${response.statusCode}`));
        }
      });
      // A canceled request may report more than one error.
      outgoing.on('error', reject);
      outgoing.end(body);
    });
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}

export const chat = (content: string, more: Record<string, unknown> = {}): string =>
  JSON.stringify({ model: 'bench', messages: [{ role: 'user', content }], ...more });

/** @throws if the answer breaks off */
export function ended(response: IncomingMessage): Promise<void> {
  return new Promise((resolve, reject) => {
    response.once('end', resolve);
    response.on('error', reject);
  });
}

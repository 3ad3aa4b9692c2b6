/** WebSocket messages with redacted secrets, as a WebSocket client reads them. */
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { afterEach, expect, it } from 'vitest';
import { matcherOf } from '../../src/egress/net/secret/secret.ts';
import { SecretWebSocket } from '../../src/egress/net/secret/websocket.ts';
import { cleanUp, undo } from '../support/gateway-servers.ts';
import { listen } from '../support/gateway-world.ts';
import { PLACEHOLDER, SECRETS, TOKEN } from '../support/secrets.ts';

afterEach(cleanUp);

/** RFC 6455 section 1.3. */
const GUID = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';

function frame(first: number, text: string): Buffer {
  const payload = Buffer.from(text);
  const head = Buffer.from([first, 126, 0, 0]);
  head.writeUInt16BE(payload.length, 2);
  return Buffer.concat([head, payload]);
}

it.each([1, 7, 5000, 100_000])('messages arrive complete, %i bytes at a time', async (step) => {
  const long = `${'é'.repeat(3000)} ${TOKEN.slice(0, 11)}`;
  const texts = [frame(0x01, long), frame(0x80, `${TOKEN.slice(11)} end`), frame(0x81, TOKEN)];
  const server = createServer().on('upgrade', (request, socket) => {
    const key = `${request.headers['sec-websocket-key']}${GUID}`;
    const accept = createHash('sha1').update(key).digest('base64');
    const fields = ['Upgrade: websocket', 'Connection: Upgrade', `Sec-WebSocket-Accept: ${accept}`];
    socket.write(`HTTP/1.1 101 Switching Protocols\r\n${fields.join('\r\n')}\r\n\r\n`);
    const frames = new SecretWebSocket(matcherOf(SECRETS, 'a.example'));
    const bytes = Buffer.concat(texts);
    for (let at = 0; at < bytes.length; at += step)
      for (const piece of frames.push(bytes.subarray(at, at + step)).pieces) socket.write(piece);
  });
  const port = await listen(server);
  undo.push(
    () => server.close(),
    () => server.closeAllConnections(),
  );
  const client = new WebSocket(`ws://127.0.0.1:${port}/`);
  undo.push(() => client.close());
  const seen = await new Promise<string[]>((resolve, reject) => {
    const messages: string[] = [];
    client.onerror = () => reject(new Error('the client refused them'));
    client.onmessage = ({ data }) => {
      if (messages.push(String(data)) === 2) resolve(messages);
    };
  });
  expect(seen).toEqual([`${'é'.repeat(3000)} ${PLACEHOLDER} end`, PLACEHOLDER]);
});

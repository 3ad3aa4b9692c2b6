/** A body that is refused before its end: a client that is still sending gets the answer, not a reset connection. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type E2bWorld, openE2bWorld } from '../support/e2b-world.ts';

let world: E2bWorld;
beforeAll(async () => {
  world = await openE2bWorld();
});
afterAll(() => world[Symbol.asyncDispose]());

/** In a process of its own: in one with the server, writes and reads take turns. */
const CLIENT = `
  const { request } = require('node:http');
  const [url, key] = process.argv.slice(1);
  const body = '{"metadata":{' + Array.from({ length: 600_000 }, (_, at) => '"' + at + '":[]').join(',') + '}}';
  const headers = { 'content-type': 'application/json', 'x-api-key': key, 'content-length': body.length };
  const once = () => new Promise((resolve) => {
    const asked = request(url, { method: 'POST', headers }, (answer) => {
      answer.resume().on('end', () => resolve(answer.statusCode));
    });
    asked.on('error', ({ message }) => resolve(message));
    asked.end(body);
  });
  (async () => { const seen = []; for (let n = 0; n < 20; n++) seen.push(await once()); console.log(JSON.stringify(seen)); })();`;

it.each(['/v1/sandboxes', '/sandboxes'])('%s', async (path) => {
  const args = ['-e', CLIENT, `${world.url}${path}`, world.apiKey];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  expect(JSON.parse(stdout)).toEqual(Array(20).fill(413));
});

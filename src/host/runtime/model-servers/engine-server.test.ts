import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runningEngines } from './engine-server.ts';

let dir = '';
const servers: Server[] = [];
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-engines-'));
});
afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  await rm(dir, { recursive: true });
});

async function engine(id: string, answer: string): Promise<void> {
  await mkdir(join(dir, id));
  const server = createServer((_, response) => response.end(answer));
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(join(dir, id, 'engine.sock'), resolve));
}

it('runningEngines: lists engines that respond; skips sandboxes and leftovers of engines', async () => {
  await engine('a', '{"status":"loading","model":"one"}');
  await engine('b', 'no health');
  await mkdir(join(dir, 'sandbox'));
  await mkdir(join(dir, 'killed'));
  await writeFile(join(dir, 'killed', 'engine.sock'), '');
  expect(await runningEngines(dir)).toEqual([{ model: 'one', running: 0, waiting: 0, setup: null }]);
  expect(await runningEngines(join(dir, 'none'))).toEqual([]);
});

/**
 * Secrets of real guests, in namespaces of their own with an internet of their own: what arrives where, and that
 * no byte of a secret is in a guest's RAM, on its disk, or in what is kept of it.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Daemon } from '../../src/cli/library/daemon.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import type { DaemonProcess } from '../support/daemon.ts';
import { certificate } from '../support/gateway-world.ts';
import { ALLOWED, FORBIDDEN, NetworkWorld } from '../support/network-world.ts';
import { scanFiles, scanMemory } from '../support/secret-scan.ts';
import { python } from '../support/vm.ts';

const SECRET = 'sk-live-Zm9vYmFyYmF6cXV4-0123456789';
const SECRETS = [{ name: 'API_KEY', hosts: [ALLOWED.name], value: SECRET }];
const PLACES = [{ in: 'header', name: 'Authorization' }] as const;

let world: NetworkWorld;
let daemon: DaemonProcess;
let control: Daemon;
beforeAll(async () => {
  world = await NetworkWorld.create(certificate(ALLOWED.name));
  ({ process: daemon, control } = await world.serve());
});
afterEach(async () => {
  for (const { id } of await control.list()) await control.remove(id);
});
afterAll(async () => {
  expect(daemon.stdout() + daemon.stderr()).not.toContain(SECRET);
  await control?.[Symbol.asyncDispose]();
  await world?.[Symbol.asyncDispose]();
});

const create = (request: CreateRequest = {}): Promise<SandboxInfo> => control.create({ secrets: SECRETS, ...request });

async function run(id: string, code: string): Promise<string> {
  const { stdout, stderr } = await python(await control.guest(id), code);
  return `${stdout}${stderr}`.trim();
}

const CALL = `
import os, urllib.request
request = urllib.request.Request('https://${ALLOWED.name}/x', headers={'Authorization': 'Bearer ' + os.environ['API_KEY']})
print(urllib.request.urlopen(request, timeout=20).read().decode())
`;
const placeholder = (id: string): Promise<string> => run(id, "import os; print(os.environ['API_KEY'])");

interface Heard {
  readonly to: string;
  readonly headers: Record<string, string>;
}

/** All that the internet's server was ever asked. */
async function heard(): Promise<readonly Heard[]> {
  const to = `${ALLOWED.name}:443:${ALLOWED.address}:443`;
  const text = await world.host.run('curl', '-sk', '--connect-to', to, `https://${ALLOWED.name}/heard`);
  return JSON.parse(text) as readonly Heard[];
}

describe('secrets', () => {
  it('urllib, requests and httpx: the host receives the secret, the guest only its placeholder', async () => {
    const { id, network, secrets } = await create();
    expect(network).toMatchObject({ mode: 'allowlist', allow: [] });
    expect(secrets).toEqual([{ name: 'API_KEY', hosts: [ALLOWED.name], places: [], held: true }]);
    const known = await placeholder(id);
    expect(known).toMatch(/^NV_SECRET_/);
    expect(known).toHaveLength(SECRET.length);
    expect(JSON.parse(await run(id, CALL)).headers.authorization).toBe(`Bearer ${known}`);
    for (const library of ['requests', 'httpx']) {
      const code = `import os, ${library}; print(${library}.get('https://${ALLOWED.name}/', auth=('me', os.environ['API_KEY'])).text)`;
      const { authorization } = JSON.parse(await run(id, code)).headers;
      expect(Buffer.from(authorization.slice(6), 'base64').toString()).toBe(`me:${known}`);
    }
    const arrived = (await heard()).map(({ headers }) => headers['authorization']);
    const basic = `Basic ${Buffer.from(`me:${SECRET}`).toString('base64')}`;
    expect(arrived).toEqual([`Bearer ${SECRET}`, basic, basic]);
  });

  it('the secret is not in RAM, on the disk, in a snapshot, in a pause or in the store', async () => {
    // Small, for every byte is looked at.
    const { id } = await create({ memoryMib: 256, diskMib: 32, boot: true });
    const known = await placeholder(id);
    await run(id, CALL);
    await run(id, `${CALL}\nopen('/home/user/answer', 'w').write(os.environ['API_KEY'])`);
    const memory = await scanMemory(daemon.pid, [SECRET, known]);
    expect(memory.bytes).toBeGreaterThan(100 * 1024 * 1024);
    expect(memory.places[0]).toBe(0);
    expect(memory.places[1]).toBeGreaterThan(0);
    await control.snapshot(id);
    await control.pause(id, 'disk');
    const files = await scanFiles(world.home, [SECRET, known]);
    expect(files.places[0]).toBe(0);
    expect(files.places[1]).toBeGreaterThan(0);
    await control.resume(id);
    expect(JSON.parse(await run(id, CALL)).headers.authorization).toBe(`Bearer ${known}`);
    expect((await heard()).at(-1)?.headers['authorization']).toBe(`Bearer ${SECRET}`);
  });

  it('a header field that the gateway sets arrives, and is in no variable, answer, RAM or file of the guest', async () => {
    const value = `Bearer ${SECRET}`;
    const header = { name: 'Authorization', hosts: [ALLOWED.name], value };
    const requestHeaders = [header];
    const network = { mode: 'allowlist', allow: [ALLOWED.name] } as const;
    const request = { secrets: [], requestHeaders, network, memoryMib: 256, diskMib: 32 };
    const { id, secrets } = await create({ ...request, boot: true });
    expect(secrets).toMatchObject([{ sets: 'Authorization', hosts: [ALLOWED.name], held: true }]);
    const call = `
import urllib.request
request = urllib.request.Request('https://${ALLOWED.name}/x', headers={'Authorization': 'mine'})
print(urllib.request.urlopen(request, timeout=20).read().decode())
`;
    const { authorization } = JSON.parse(await run(id, call)).headers;
    expect(authorization).toMatch(/^Bearer NV_SECRET_/);
    expect((await heard()).at(-1)?.headers['authorization']).toBe(value);
    expect(await run(id, "import os; print('sk-live' in str(os.environ))")).toBe('False');
    expect((await scanMemory(daemon.pid, [SECRET])).places).toEqual([0]);
    await control.pause(id, 'disk');
    expect((await scanFiles(world.home, [SECRET])).places).toEqual([0]);
    await control.update(id, { requestHeaders: [{ ...header, value: 'Bearer other' }] });
    await run(id, call);
    expect((await heard()).at(-1)?.headers['authorization']).toBe('Bearer other');
  });

  it('another address under the host’s name, and another name, never receive the secret', async () => {
    const { id } = await create({ network: { mode: 'open' } });
    const before = (await heard()).length;
    const forged = `
import os, socket, ssl
context = ssl._create_unverified_context()
plain = socket.create_connection(('${FORBIDDEN.address}', 443), timeout=10)
try:
    tls = context.wrap_socket(plain, server_hostname='${ALLOWED.name}')
    tls.sendall(b'GET / HTTP/1.1\\r\\nHost: ${ALLOWED.name}\\r\\nX: ' + os.environ['API_KEY'].encode() + b'\\r\\n\\r\\n')
    print(tls.recv(1000))
except OSError as error: print(type(error).__name__)
`;
    expect(await run(id, forged)).toMatch(/Error/);
    expect(await heard()).toHaveLength(before);
    const other = `
import os, ssl, urllib.request
request = urllib.request.Request('https://${FORBIDDEN.name}/', headers={'X': os.environ['API_KEY']})
print(urllib.request.urlopen(request, timeout=20, context=ssl._create_unverified_context()).read().decode())
`;
    expect(JSON.parse(await run(id, other)).headers.x).toBe(await placeholder(id));
    const deposit = CALL.replace('headers={', "headers={'X-Meta': os.environ['API_KEY'], ");
    expect(await run(id, deposit)).toContain('HTTP Error 403');
    // Where everything is open its own host gets it all the same.
    await run(id, CALL);
    const all = (await heard()).slice(before);
    expect(all.map(({ to }) => to)).toEqual([FORBIDDEN.address, ALLOWED.address]);
    expect(JSON.stringify(all[0])).not.toContain(SECRET);
    expect(all[1]?.headers['authorization']).toBe(`Bearer ${SECRET}`);
  });

  it('a fork has its parent’s secrets; programs that start after a change see the change', async () => {
    const { id } = await create({ secrets: undefined });
    expect((await control.get(id)).network).toBeNull();
    await control.update(id, { secrets: SECRETS.map((one) => ({ ...one, places: PLACES })) });
    const known = await placeholder(id);
    await run(id, CALL);
    const [fork] = await control.fork(id, { count: 1 });
    if (fork?.ok !== true) throw new Error('the fork failed');
    expect(await placeholder(fork.sandbox.id)).toBe(known);
    expect(fork.sandbox.secrets).toMatchObject([{ places: PLACES, held: true }]);
    expect(JSON.parse(await run(fork.sandbox.id, CALL)).headers.authorization).toBe(`Bearer ${known}`);
    const changed = SECRET.toLowerCase();
    await control.update(id, { secrets: [{ ...SECRETS[0], value: changed } as never] });
    await run(id, CALL);
    expect((await heard()).at(-1)?.headers['authorization']).toBe(`Bearer ${changed}`);
    await control.update(id, { secrets: [] });
    expect(await run(id, CALL)).toMatch(/KeyError|certificate/);
  });

  it('a pool member has the secrets once it is claimed', async () => {
    await control.setPool({ min: 1, max: 1 });
    try {
      const ready = async (): Promise<number | undefined> => (await control.pools())[0]?.ready;
      await expect.poll(ready, { interval: 50 }).toBe(1);
      const { id, origin } = await create();
      expect(origin).toBe('pool');
      const { authorization } = JSON.parse(await run(id, CALL)).headers;
      expect(authorization).toBe(`Bearer ${await placeholder(id)}`);
      expect((await heard()).at(-1)?.headers['authorization']).toBe(`Bearer ${SECRET}`);
    } finally {
      await control.setPool({ min: 0, max: 0 });
    }
  });

  it('a restarted daemon has no secrets until they are provided again', async () => {
    const { id } = await create({ secrets: SECRETS.map((one) => ({ ...one, places: PLACES })) });
    const known = await placeholder(id);
    await control.pause(id, 'disk');
    daemon.kill('SIGTERM');
    await daemon.ended;
    await control[Symbol.asyncDispose]();
    ({ process: daemon, control } = await world.serve());
    expect((await control.get(id)).secrets).toMatchObject([{ places: PLACES, held: false }]);
    await expect(control.resume(id)).rejects.toMatchObject({
      code: 'secrets_missing',
      remedy: expect.stringContaining(`--secret API_KEY@${ALLOWED.name}:header=Authorization`),
    });
    await control.update(id, { secrets: SECRETS });
    expect((await control.get(id)).status).toBe('paused');
    await control.resume(id);
    expect(await placeholder(id)).toBe(known);
    expect(JSON.parse(await run(id, CALL)).headers.authorization).toBe(`Bearer ${known}`);
  });

  it('run --secret: the host receives the secret, the guest only its placeholder', async () => {
    await writeFile(join(world.home, 'secret'), `${SECRET}\n`);
    const { status, stdout, stderr } = await world.command([
      'run',
      '--no-daemon',
      '--secret',
      `API_KEY@${ALLOWED.name}=${world.home}/secret`,
      '-c',
      CALL,
    ]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain('NV_SECRET_');
    expect(stdout).not.toContain(SECRET);
  });
});

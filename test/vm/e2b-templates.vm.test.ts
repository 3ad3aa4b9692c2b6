/** The template builder of E2B's unmodified client: steps run in VMs, and sandboxes start from the result. */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LogEntry, Sandbox, Template, waitForPort } from 'e2b';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createE2bServer, type E2bServer } from '../../src/api/e2b/server.ts';
import { accessTokens } from '../../src/api/e2b/tokens.ts';
import { type ApiServer, createApiServer } from '../../src/api/rest/server.ts';
import { operatorOnly } from '../../src/api/tenants/callers.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { GIB } from '../../src/base/units.ts';
import { VmTemplateBuilds } from '../../src/host/builds/template-builds.ts';
import { startMockUpstream } from '../support/mock-upstream.ts';
import { useControlPlane } from '../support/vm.ts';

const upstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '');
const dir = mkdtempSync(join(tmpdir(), 'nv-e2b-templates-vm-'));
const apiKey = `e2b_${'0'.repeat(40)}`;
const client = { apiKey, apiUrl: '', sandboxUrl: '', requestTimeoutMs: 0 };
let e2b: E2bServer;
let api: ApiServer;

beforeAll(async () => {
  mkdirSync(join(dir, 'app/lib'), { recursive: true });
  writeFileSync(join(dir, 'app/main.txt'), 'main\n');
  writeFileSync(join(dir, 'app/lib/a.txt'), 'a\n');
  writeFileSync(join(dir, 'app/lib/b.bin'), 'b\n');
  symlinkSync('/etc/hostname', join(dir, 'app/link'));
  const { runtime, control } = fixture;
  const signal = new AbortController().signal;
  e2b = await createE2bServer({
    control,
    log: silentLog,
    clock: systemClock,
    tokens: accessTokens(Buffer.alloc(32, 7)),
    callers: operatorOnly(control, apiKey),
    domain: () => 'localhost',
    templates: {
      builds: new VmTemplateBuilds(runtime, { log: silentLog, signal, quotaBytes: GIB }),
      stateDir: join(dir, 'state'),
      uploadsDir: join(dir, 'uploads'),
    },
  });
  api = await createApiServer({ control, log: silentLog, apiKey, beside: e2b });
  const url = `http://127.0.0.1:${await api.listen({ port: 0 })}`;
  Object.assign(client, { apiUrl: url, sandboxUrl: url });
});
afterAll(async () => {
  await api?.close();
  await e2b?.[Symbol.asyncDispose]();
  await upstream.close();
  rmSync(dir, { recursive: true, force: true });
});

const logs: string[] = [];
const build = async (template: Parameters<typeof Template.build>[0], name: string) =>
  await Template.build(template, name, {
    ...client,
    cpuCount: 1,
    memoryMB: 256,
    onBuildLogs: ({ level, message }: LogEntry) => void logs.push(`${level} ${message}`),
  });

const steps = () =>
  Template({ fileContextPath: dir })
    .fromTemplate('agent')
    .setEnvs({ GREETING: 'hi "there"', TWICE: '$GREETING, $GREETING' })
    .setWorkdir('/srv/app')
    .copy('app', '.')
    .copy('app/lib/*.txt', '/srv/texts', { mode: 0o600 })
    .runCmd('id -un; pwd; echo "$TWICE"; echo mine >own.txt')
    .runCmd(['echo root >/etc/by-root', 'chmod 644 /etc/by-root'], { user: 'root' });
const first = () =>
  steps().setStartCmd('echo "$GREETING" >/tmp/started; exec python3 -m http.server 8000', waitForPort(8000));

describe('a template of the builder', () => {
  it('has the files, variables, user and program that its steps made', async () => {
    await build(first(), 'vm-app:v1');
    expect(logs.join('\n')).toContain('[stdout]: hi "there", hi "there"');
    const sandbox = await Sandbox.create('vm-app:v1', { ...client, allowInternetAccess: false });
    const run = async (command: string): Promise<string> => (await sandbox.commands.run(command)).stdout;
    expect(await run('id -un; pwd; echo "$TWICE"')).toBe('user\n/srv/app\nhi "there", hi "there"\n');
    expect(await run('stat -c "%U %a %n" /srv/app /srv/app/main.txt own.txt')).toBe(
      'user 755 /srv/app\nuser 644 /srv/app/main.txt\nuser 644 own.txt\n',
    );
    expect(await run('readlink link; cat lib/a.txt lib/b.bin')).toBe('/etc/hostname\na\nb\n');
    expect(await run('ls /srv/texts; stat -c %a /srv/texts/a.txt; cat /etc/by-root')).toBe('a.txt\n600\nroot\n');
    expect(await run('cat /tmp/started')).toBe('hi "there"\n');
    const get = 'import urllib.request as u; print(u.urlopen("http://127.0.0.1:8000/own.txt").read())';
    expect(await run(`python3 -c '${get}'`)).toBe("b'mine\\n'\n");
    await sandbox.kill();
  });

  it('can be the base of another, whose failed step is reported', async () => {
    logs.length = 0;
    const next = Template({ fileContextPath: dir })
      .fromTemplate('vm-app:v1')
      .runCmd('id -un; cat own.txt')
      .runCmd('echo "$TWICE" >&2; exit 7');
    await expect(build(next, 'vm-next')).rejects.toMatchObject({
      name: 'BuildError',
      message: expect.stringMatching(/^RUN echo .* ended with status 7: hi "there"/),
    });
    const said = logs.join('\n');
    expect(said).toContain('info [builder 1/2] [stdout]: user\ninfo [builder 1/2] [stdout]: mine');
    expect(said).toContain('warn [builder 2/2] [stderr]: hi "there", hi "there"');
    expect(await Template.exists('vm-next', client)).toBe(false);
  });

  it('uses the steps of an earlier build', async () => {
    logs.length = 0;
    await build(steps().runCmd('true'), 'vm-app:v2');
    const cached = logs.filter((line) => line.startsWith('info CACHED [builder'));
    expect(cached.length).toBeGreaterThanOrEqual(5);
    expect((await Template.getTags('vm-app', client)).map(({ tag }) => tag)).toEqual(['v1', 'v2']);
  });
});

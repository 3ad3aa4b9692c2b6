/** Templates with a program: it runs in every clone, each of which has its own. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startMockUpstream } from '../support/mock-upstream.ts';
import { exec, SMALL, useControlPlane } from '../support/vm.ts';

const upstream = await startMockUpstream();
const fixture = useControlPlane(() => upstream.target.baseUrl ?? '');
afterAll(() => upstream.close());

const GET = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/own').read().decode())";
const template = 'nv-test-web';

beforeAll(async () => {
  const { runtime } = fixture;
  const made = await runtime.templateSource.prepareTemplate(SMALL, {
    command: 'cd /tmp && echo first >own && exec python3 -m http.server 8000',
    ready: `python3 -c "${GET}"`,
    readyTimeoutMs: 120_000,
  });
  await runtime.templates.setName(template, made);
});

describe('a template with a start command', () => {
  it('each clone has its own running program, with the earlier output in the log', async () => {
    const { control } = fixture;
    const [one, two] = await Promise.all([control.create({ template }), control.create({ template })]);
    expect(one).toMatchObject({ origin: 'clone', template });
    const guest = await control.guest(one.id);
    await exec(guest, ['sh', '-c', 'echo second >/tmp/own']);
    expect((await exec(guest, ['python3', '-c', GET])).stdout).toBe('second\n\n');
    const other = await control.guest(two.id);
    expect((await exec(other, ['python3', '-c', GET])).stdout).toBe('first\n\n');
    expect(await other.processes()).toMatchObject([{ detached: true, user: 'user', tag: 'start' }]);
    const log = await other.files.readAll('/var/log/neurovisor-start.log');
    expect(log.toString()).toContain('"GET /own HTTP/1.1" 200');
    await Promise.all([control.remove(one.id), control.remove(two.id)]);
  });

  it('a program that ends before it is ready fails the build with its status and output', async () => {
    const building = fixture.runtime.templateSource.prepareTemplate(SMALL, {
      command: 'echo no such port; exit 3',
      ready: 'false',
      readyTimeoutMs: 120_000,
    });
    await expect(building).rejects.toMatchObject({
      code: 'spec_invalid',
      cause: 'it ended with status 3 before it was ready\nits last output:\nno such port',
    });
  });
});

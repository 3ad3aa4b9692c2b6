/** Usage errors of `neurovisor` without a daemon: arguments are checked before any request. */
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type CliResult, cli } from '../support/cli.ts';

let home: string;
beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-words-'));
  // A set-up fails here at once, instead of building for minutes.
  await mkdir(join(home, 'cache'));
  await writeFile(join(home, 'cache/kernel'), '');
});
afterAll(() => rm(home, { recursive: true }));

const run = (line: string, env: Record<string, string> = {}): Promise<CliResult> =>
  cli(line.split(' '), { env: { NEUROVISOR_HOME: home, ...env } }).result;

describe('-o json', () => {
  it.each([
    ['run -o json --frob', "unknown option '--frob'"],
    ['run -o json --net foo x', 'Allowed choices are none, egress, open'],
    ['create --cpus abc -o json', '--cpus: invalid number "abc"'],
    ['exec -o json', "missing required argument 'id'"],
    ['frob --output=json', "unknown command 'frob'"],
    ['run -o json', 'missing script'],
    ['image pull -o json A//b', 'invalid image "A//b"'],
  ])('%s: prints the error as an object, and nothing else', async (line, message) => {
    const { status, stdout, stderr } = await run(line);
    expect([status, stderr]).toEqual([2, '']);
    expect(JSON.parse(stdout)).toEqual({
      error: expect.objectContaining({ code: 'usage', message: expect.stringContaining(message) }),
    });
  });

  it('-o json after --: errors are text', async () => {
    const { stdout, stderr } = await run('exec --frob x -- jq -o json');
    expect([stdout, stderr]).toEqual(['', expect.stringContaining("unknown option '--frob'")]);
  });
});

describe('usage errors without a daemon', () => {
  it.each([
    ['port x 99999', 'invalid port "99999"'],
    ['pool set 5 2', 'pool minimum 5 exceeds maximum 2'],
    ['pool set 1 2 --memory 1', '--memory: 1 is out of range (128M to 64G)'],
    ['key revok 3f9a0c52d1be', "unknown command 'revok'"],
    ['key ls x', "unexpected argument 'x'"],
    ['tenant frob', "unknown command 'frob'"],
    ['pool frob', "unknown command 'frob'"],
    ['tenant set acme --sandboxes 1.5', 'use a whole number, or none'],
    ['tenant set acme --model-budget output=1M', '--model-budget needs a window'],
    ['host set', 'no setting is named'],
    ['host set --model-budget cost=1.0000000001,per=1d', 'invalid number of dollars'],
    ['host frob', "too many arguments for 'host'"],
    ['audit verify', 'there is no audit log in'],
    ['audit verify /nope', 'could not read /nope'],
    ['rm', 'missing sandbox ID'],
    ['rm --all x', '--all and sandbox IDs are mutually exclusive'],
    ['exec x', 'missing program'],
    ['exec x --timeout 0 -- ls', '--timeout: 0 is out of range (1ms'],
    ['cp a b', 'exactly one of SOURCE and TARGET must be in a sandbox'],
    ['net latency zz --for 0', '--for: 0 is out of range (1ms to 1h)'],
    ['snapshot create x --name Bad/..', '--name "Bad/..": expected 1 to 63 lower-case letters'],
    ['run --daemon --no-daemon s.py', '--daemon and --no-daemon are mutually exclusive'],
    ['run -i -c 1', '-i alone has no effect'],
    ['run -t -c 1', '-t alone has no effect'],
    ['run --no-daemon --rate abc -c 1', '--rate: invalid size "abc"'],
    ['run --no-daemon --rate 100 -c 1', '--rate: 100 is out of range (16384 to 1000000000000)'],
    ['run --no-daemon --net open --net-limit bytes=-1 -c 1', '--net-limit: invalid size "-1"'],
    ['run --no-daemon --deny-out pypi.org -c 1', '--deny-out alone blocks everything'],
    ['template create -t web --start x', '--start needs --ready'],
    ['template create --start x --image alpine', '--start needs --name'],
    ['prove-endpoint canary', 'canary needs --zone'],
    ['bench nosuch', 'use a group (boot, '],
  ])('%s', async (line, message) => {
    const { status, stdout, stderr } = await run(line);
    expect(stderr).toContain(message);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr.split('\n').length).toBeLessThanOrEqual(3);
  });
});

it('serve: a taken port is refused before any set-up', async () => {
  await using taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const { port } = taken.address() as AddressInfo;
  const { status, stderr } = await run(`serve --port ${port}`);
  expect([status, stderr]).toEqual([125, expect.stringContaining(`127.0.0.1:${port}: another server listens there`)]);
});

describe('no daemon', () => {
  it.each(['template export a b', 'models test'])(
    '%s: acts on this machine, so NEUROVISOR_URL is refused',
    async (line) => {
      const { status, stdout, stderr } = await run(line, { NEUROVISOR_URL: 'http://127.0.0.1:1' });
      expect([status, stdout]).toEqual([2, '']);
      expect(stderr).toContain('NEUROVISOR_URL names a daemon');
    },
  );

  it.each(['template ls', 'image rm x', 'models ls', 'models rm x', 'df', 'prune'])(
    '%s: asks the daemon of NEUROVISOR_URL, and never acts here instead',
    async (line) => {
      const { status, stdout, stderr } = await run(line, { NEUROVISOR_URL: 'http://127.0.0.1:1' });
      expect([status, stdout]).toEqual([125, '']);
      expect(stderr).toContain('no daemon is running at http://127.0.0.1:1');
    },
  );

  it('at an address: names it, and says how to start a daemon there', async () => {
    const { status, stderr } = await run('ls', { NEUROVISOR_URL: 'http://127.0.0.1:1' });
    expect(status).toBe(125);
    expect(stderr).toContain('NEUROVISOR_URL');
    expect(stderr).toContain('neurovisor serve --port 1');
  });
});

describe('--build', () => {
  it.each([
    ['run --build . --image alpine', '--build and --image are mutually exclusive'],
    ['run --build . --template data', '--template and --build are mutually exclusive'],
    ['run --build . -it x.py', '-it with an image runs a program'],
    ['run --build . no-such.py', 'script no-such.py does not exist'],
    ['run --build /no/such', "can't read /no/such/Dockerfile"],
    ['run --build test', "can't read test/Dockerfile"],
    ['run --no-daemon --build . --cpus 0', '--cpus: 0 is out of range'],
  ])('%s: refused before any set-up', async (line, message) => {
    const { status, stdout, stderr } = await run(line);
    expect([status, stdout]).toEqual([2, '']);
    expect(stderr).toContain(message);
    expect(stderr.split('\n').length).toBeLessThanOrEqual(3);
  });

  it('an argument without -- names the way to pass it to the program', async () => {
    const { stderr } = await run('run --build test serve');
    expect(stderr).toContain('neurovisor run --build test -- serve');
  });
});

describe('image build', () => {
  it.each([
    ['image build -f /no/such/file', "can't read /no/such/file"],
    ['image build -f /dev/zero .', "can't read /dev/zero: it is not a file"],
    ['image build -t agent -f x .', 'the template name "agent" is reserved'],
    ['image build --build-arg 1=2 -f package.json .', 'invalid build argument "1=2"'],
    ['image build --build-secret src=x -f package.json .', 'invalid secret "src=x"'],
    ['image build --build-secret id=x,env=NOT_SET_X -f package.json .', 'NOT_SET_X is not set'],
  ])('%s: refused before anything is set up', async (line, message) => {
    const { status, stderr } = await run(line);
    expect([status, stderr]).toEqual([2, expect.stringContaining(message)]);
  });
});

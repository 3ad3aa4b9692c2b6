/** `run` in a pipe, like `docker run -i`: binary input and output, ends of both, on a real guest agent. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MIB } from '../../src/base/units.ts';
import { TemplateNames } from '../../src/host/runtime/named-templates/names.ts';
import { DEFAULT_TEMPLATE } from '../../src/sandbox/start/template.ts';
import { ROOT } from '../support/cli.ts';
import { type FakeDaemon, startFakeDaemon } from '../support/fake-daemon.ts';

let daemon: FakeDaemon;
beforeAll(async () => {
  daemon = await startFakeDaemon();
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
});

const start = (code: string) => startWith(['-c', code]);

function startWith(argv: readonly string[]) {
  const child = spawn(join(ROOT, 'neurovisor'), ['run', ...argv], {
    env: { ...process.env, ...daemon.env, NO_COLOR: '1' },
  });
  // The command may exit before it has read all input.
  child.stdin.on('error', () => undefined);
  const closed = new Promise<number | null>((resolve) => child.on('close', resolve));
  return { child, closed, stderr: text(child.stderr) };
}

/** Bytes of every value, in chunks; `count` may be Infinity. */
function* chunks(count: number): Generator<Buffer> {
  const chunk = Buffer.from(Array.from({ length: 65_536 }, (_, at) => at % 256));
  for (let at = 0; at < count; at += 1) yield chunk;
}

describe('run in a pipe', () => {
  it('passes 16 MiB of binary input through unaltered, and ends the input', async () => {
    const copy = 'import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)';
    const { child, closed, stderr } = start(copy);
    Readable.from(chunks(256)).pipe(child.stdin);
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const chunk of child.stdout) {
      hash.update(chunk);
      bytes += chunk.length;
    }
    const expected = createHash('sha256');
    for (const chunk of chunks(256)) expected.update(chunk);
    expect([await closed, await stderr, bytes]).toEqual([0, '', 16 * MIB]);
    expect(hash.digest('hex')).toBe(expected.digest('hex'));
  });

  it('a reader that stops after a byte (`| head -c 1`) ends script and sandbox, without a message', async () => {
    const flood = 'import sys\nwhile True: sys.stdout.buffer.write(bytes(65536))';
    const { child, closed, stderr } = start(flood);
    child.stdout.once('data', () => child.stdout.destroy());
    expect([await closed, await stderr]).toEqual([141, '']);
    expect(await daemon.control.list()).toEqual([]);
  });

  it('endless input that the script does not read (`yes |`): ends with the script, status 0', async () => {
    const { child, closed, stderr } = start('import sys; print(sys.stdin.buffer.read(1))');
    Readable.from(chunks(Number.POSITIVE_INFINITY)).pipe(child.stdin);
    expect((await buffer(child.stdout)).toString()).toBe("b'\\x00'\n");
    expect([await closed, await stderr]).toEqual([0, '']);
  });

  it('no input: the script reads its end at once', async () => {
    const { child, closed } = start('import sys; print(repr(sys.stdin.read()))');
    child.stdin.end();
    expect(await text(child.stdout)).toBe("''\n");
    expect(await closed).toBe(0);
  });

  it('--template of an image: the words after -- are a program of it', async () => {
    const names = new TemplateNames(daemon.env['NEUROVISOR_HOME'] ?? '');
    const digest = `sha256:${'a'.repeat(64)}`;
    const config = { user: '', env: {}, workdir: '/', entrypoint: [], cmd: [], exposedPorts: [] };
    const environment = { image: 'x:1', imageDigest: digest, digest, ...config, stopSignal: null };
    await names.set('web', { ...DEFAULT_TEMPLATE, environment }, (path) => writeFile(path, ''));
    const { child, closed, stderr } = startWith(['--template', 'web', '--', 'echo', 'ran']);
    child.stdin.end();
    expect([await text(child.stdout), await closed, await stderr]).toEqual(['ran\n', 0, '']);
  });
});

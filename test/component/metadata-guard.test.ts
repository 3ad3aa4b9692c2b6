/** The XDP drop of metadata traffic in the kernel, on a host without a packet filter. */
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FRAMES } from '../support/metadata-frames.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/metadata-guard.ts');
const METADATA = ['169.254.169.254', '168.63.129.16', '100.100.100.200', '192.0.0.192'];
const BESIDE = ['168.63.129.17', '1.1.1.1'];

let host: NamespacedProcess;
beforeEach(() => {
  host = NamespacedProcess.inNewNamespace(FIXTURE);
});
afterEach(() => host.kill());

describe('MetadataGuards', () => {
  it('blocks a guest from metadata services and nothing else, and counts', async () => {
    await host.do('guard');
    await host.do('up', [...METADATA, ...BESIDE]);
    expect(host.ip('link', 'show', 'nv-guard')).toMatchObject([{ xdp: { mode: 2, prog: { id: expect.any(Number) } } }]);
    expect(await host.do('send', ...METADATA, ...BESIDE)).toEqual(BESIDE);
    const drops = { metadata: METADATA.length, unreadable: 0 };
    expect(await host.do('drops')).toEqual(drops);
    expect(await host.do('dropsOfLink')).toEqual(drops);
    await host.do('close');
    expect(await host.do('send', ...METADATA)).toEqual([]);
    expect(await host.do('drops')).toEqual(drops);
    expect(await host.do('dropsOfLink')).toBeNull();
  });

  it('control: without the guard, packets arrive', async () => {
    await host.do('up', [...METADATA, ...BESIDE]);
    const all = [...METADATA, ...BESIDE];
    expect(await host.do('send', ...all)).toEqual(all);
    await host.do('guard');
    expect(await host.do('send', ...all)).toEqual(BESIDE);
    host.run('ip', 'link', 'set', 'nv-guard', 'xdpgeneric', 'off');
    expect(await host.do('send', ...all)).toEqual(all);
    expect(await host.do('dropsOfLink')).toBeNull();
  });

  it('kernel and interpreter agree on every frame', async () => {
    const frames = FRAMES.map(([, frame]) => Buffer.from(frame).toString('hex'));
    const expected = FRAMES.map(([what, , fate]) => [
      what,
      ...{ pass: [2, 0, 0], metadata: [1, 1, 0], unreadable: [1, 0, 1] }[fate],
    ]);
    const verdicts = await host.do<number[][]>('verdicts', frames);
    expect(FRAMES.map(([what], index) => [what, ...(verdicts[index] ?? [])])).toEqual(expected);
  });

  it('failed: another program is attached; nothing is left open', async () => {
    await host.do('guard');
    const before = await host.do('fds');
    expect(await host.refusal('guard')).toMatchObject({
      code: 'failed',
      cause: expect.stringContaining('attach an XDP program'),
    });
    expect(await host.do('fds')).toBe(before);
  });

  it('a program that the kernel refuses fails with the reason', async () => {
    expect(await host.refusal('loadBad')).toMatchObject({
      code: 'EACCES',
      message: expect.stringContaining('invalid bpf_context access'),
    });
  });

  it('not_permitted without CAP_BPF, with a remedy', async () => {
    const weak = ['unshare', '-n', 'setpriv', '--bounding-set=-bpf,-sys_admin'];
    await using stack = new AsyncDisposableStack();
    const process = stack.adopt(new NamespacedProcess(weak, FIXTURE), (each) => each.kill());
    expect(await process.refusal('guard')).toMatchObject({
      code: 'not_permitted',
      remedy: expect.stringContaining('CAP_BPF'),
    });
  });
});

/** The proofs hold, and fail if the packet filter lets guests through. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { Proof } from '../../prove/proof.ts';
import { prove } from '../../prove/prove.ts';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { cli } from '../support/cli.ts';

const run = promisify(execFile);
const UNFILTERED = join(import.meta.dirname, '../fixtures/prove-unfiltered.ts');
const WEBHOOKS = join(import.meta.dirname, '../fixtures/prove-webhooks.ts');
const failed = ({ tried }: Proof) => tried.filter(({ ok }) => !ok);

const OPTIONS = { config: readConfig({}), log: silentLog, signal: new AbortController().signal };

describe('prove', () => {
  it('metadata and egress hold, with their controls', async () => {
    const proofs = await prove(['metadata', 'egress'], OPTIONS);
    expect(proofs.flatMap(failed)).toEqual([]);
    expect(proofs.map(({ name, holds }) => [name, holds])).toEqual([
      ['metadata', true],
      ['egress', true],
    ]);
    for (const { tried } of proofs) {
      expect(tried.length).toBeGreaterThan(50);
      expect(tried.filter(({ what }) => what.startsWith('control')).length).toBeGreaterThan(5);
    }
  });

  it('secrets hold, with their controls', async () => {
    const [proof] = await prove(['secrets'], OPTIONS);
    expect(proof && failed(proof)).toEqual([]);
    const all = proof?.tried.map(({ what }) => what) ?? [];
    expect(all.filter((what) => what.startsWith('control')).length).toBeGreaterThan(5);
    expect(all.length).toBeGreaterThan(30);
  });

  it('metadata does not hold without the packet filter', async () => {
    const args = ['--net', process.execPath, UNFILTERED];
    const { stdout } = await run('unshare', args, { maxBuffer: 1024 * 1024 });
    const proof = JSON.parse(stdout) as Proof;
    expect(proof.holds).toBe(false);
    const what = failed(proof).map((each) => each.what);
    expect(what).toEqual(
      expect.arrayContaining([
        'open: 169.254.169.254 port 80',
        'open: 168.63.129.16 port 80',
        'open: IPv4-mapped ::ffff:169.254.169.254',
        'open: the redirect followed to 169.254.169.254',
        'open: a frame of UDP to 169.254.169.254 port 9999, past the guest’s kernel',
      ]),
    );
    // Cases decided by name alone do not depend on the packet filter.
    expect(what.filter((each) => each.startsWith('open: the name'))).toEqual([]);
  });

  it('egress does not hold if webhooks reach a private address', async () => {
    const { stdout } = await run('unshare', ['--net', process.execPath, WEBHOOKS], { maxBuffer: 1024 * 1024 });
    expect(failed(JSON.parse(stdout) as Proof).map(({ what }) => what)).toEqual(['a webhook at 10.50.0.1']);
  });

  it('the command prints proofs as JSON and exits with 0; an unknown name is a usage error', async () => {
    const { status, stdout } = await cli(['prove', 'egress', '-o', 'json']).result;
    const proofs = JSON.parse(stdout) as Proof[];
    expect(proofs.flatMap(failed)).toEqual([]);
    expect(status).toBe(0);
    expect(proofs).toMatchObject([
      {
        name: 'egress',
        holds: true,
        tried: expect.arrayContaining([
          { what: 'SNI is forged', expected: 'refused; nothing arrived', seen: expect.any(String), ok: true },
        ]),
      },
    ]);
    expect(await cli(['prove', 'nothing']).result).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('metadata, egress, secrets'),
    });
  });
});
